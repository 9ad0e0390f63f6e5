// SPDX-License-Identifier: Apache-2.0
// Sums of several splits by way of the caller's workspace, for more splits than a cluster has blocks. A block that has
// stored something says so by flags, one for each split that reads it, which puts it back. So all flags are down when
// a launch ends, and nobody must clear them and wait until all blocks have. A raised flag is 64 bits of a kind that
// other contents of the workspace do not hold (2^-64 for each).
#pragma once

#include "mla/cuda/store_dims.cuh"
#include "mla/cuda/wide_decode/few_values.cuh"

namespace tokamak::mla::cuda::wide_decode {

inline constexpr std::uint64_t kRaised = 0x9E3779B97F4A7C15;
inline constexpr int kRowBytes = 512;  ///< an item row: of each lane, four dimensions of two heads
inline constexpr int kHalfRows =
    8 * kHeads / 8;  ///< item rows of half of a block's output: by part, then by pair of heads
inline constexpr int kHalfBytes = kHalfRows * kRowBytes;
enum : int { kFirstFlag, kSecondFlag, kSumsFlag, kFlagKinds };  ///< by half of the output; sums of heads
inline constexpr int kFlagBytes = kFlagKinds * kMostPublished * static_cast<int>(sizeof(std::uint64_t));
inline constexpr int kPublishedBytes = 2 * kHalfBytes + kHeads * static_cast<int>(sizeof(float2)) + kFlagBytes;

__device__ __forceinline__ void store_published(std::uint8_t* at, uint4 v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
/// If `on`; else zeros.
__device__ __forceinline__ uint4 load_published(const std::uint8_t* at, bool on) {
    uint4 v = {0, 0, 0, 0};
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n @p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
        : "l"(at), "r"(static_cast<std::uint32_t>(on))
        : "memory");
    return v;
}

/// An item: a lane's sums of heads 8 j + 2 (lane % 4) and the next, two dimensions of both tiles each, in f16.
__device__ __forceinline__ uint4 packed(const HalfSums& sums, float factor, int j) {
    const auto word = [&](int w) {
        return pack_f16(sums[w % 2][4 * j + w / 2] * factor, sums[w % 2][4 * j + 2 + w / 2] * factor);
    };
    return {word(0), word(1), word(2), word(3)};
}

/// A lane's items to shared memory.
__device__ __forceinline__ void stage_half(const HalfSums& sums, float factor, std::uint32_t to) {
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) store_shared(to + j * kRowBytes, packed(sums, factor, j));
}

/// Item rows of half of the output that a split adds up. Its own parts of them stay in shared memory.
struct OwnedRows {
    int first, last;
    __device__ __forceinline__ OwnedRows(const Params& params, int rank) {
        const int owned = over_splits(params, kHalfRows + params.splits - 1);
        first = rank * owned;
        last = min(kHalfRows, first + owned);
    }
    [[nodiscard]] __device__ __forceinline__ bool has(int row) const { return row >= first && row < last; }
};

/// What the splits of a token and 64 heads publish.
class Board {
  public:
    __device__ __forceinline__ Board(const Params& params, const Published& published, int unit)
        : at_(published.at + std::int64_t{unit} * params.splits * kPublishedBytes) {}

    [[nodiscard]] __device__ __forceinline__ std::uint8_t* items(int split, int half) const {
        return at_ + split * kPublishedBytes + half * kHalfBytes;
    }
    [[nodiscard]] __device__ __forceinline__ float2* sums(int split) const {
        return reinterpret_cast<float2*>(items(split, 2));
    }
    /// What `split` says to `reader`.
    [[nodiscard]] __device__ __forceinline__ std::uint64_t* flag(int split, int kind, int reader) const {
        return reinterpret_cast<std::uint64_t*>(sums(split) + kHeads) + kind * kMostPublished + reader;
    }

    /// Item row `row` of the second half; to its place at `kept` if the split owns it.
    __device__ __forceinline__ void store(int split, const OwnedRows& own, std::uint32_t kept, int row,
                                          const uint4& item, int lane) const {
        if (own.has(row))
            store_shared(kept + (row - own.first) * kRowBytes + lane * 16, item);
        else
            store_published(items(split, 1) + row * kRowBytes + lane * 16, item);
    }

    /// The first half, staged in shared memory, by two warps: the math warps' own stores would keep what they read then
    /// waiting.
    __device__ __forceinline__ void store_staged(int split, const OwnedRows& own, std::uint32_t staged, int warp,
                                                 int lane) const {
        constexpr int kAtOnce = 8;
#pragma unroll 1
        for (int row = warp * (kHalfRows / 2); row < (warp + 1) * (kHalfRows / 2); row += kAtOnce) {
            const int at = row * kRowBytes + lane * 16;
            uint4 v[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) v[i] = load_shared_16(staged + at + i * kRowBytes);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i)
                if (!own.has(row + i)) store_published(items(split, 0) + at + i * kRowBytes, v[i]);
        }
    }

    /// By a warp, when all have stored what it is about. (One fence for all: a fence of every warp takes longer.)
    __device__ __forceinline__ void raise(int split, int kind, int splits, int lane) const {
        if (lane < splits)
            asm volatile("fence.acq_rel.gpu;\n st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(flag(split, kind, lane)),
                         "l"(kRaised)
                         : "memory");
    }
    /// By a warp: waits for all splits, and puts their flags back.
    __device__ __forceinline__ void await(int reader, int kind, int splits, int lane) const {
        std::uint64_t* const from = flag(min(lane, splits - 1), kind, reader);
        std::uint64_t seen;
        do asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(from) : "memory");
        while (__any_sync(~0U, seen != kRaised));
        if (lane < splits) asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(from), "l"(0ULL) : "memory");
    }

    __device__ __forceinline__ void store_sums(int split, int h, float reference, float sum) const {
        asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(sums(split) + h), "f"(reference), "f"(sum)
                     : "memory");
    }

  private:
    std::uint8_t* at_;
};

/// A head's sums of `count` splits together. Leaves two f16 numbers by which a split's parts of a head are multiplied:
/// at most 1 / Most, so that sums of so many parts stay in range.
template <int Most, class Control>
__device__ __forceinline__ HeadSums merge_published(const Board& board, Control& control, int count, int h,
                                                    float sink) {
    constexpr float share = 1.0F / Most;
    float2 of[Most];
#pragma unroll
    for (int r = 0; r < Most; ++r)
        asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
                     : "=f"(of[r].x), "=f"(of[r].y)
                     : "l"(board.sums(min(r, count - 1)) + h)
                     : "memory");
    HeadSums all;
#pragma unroll
    for (int r = 0; r < Most; ++r) all.reference = max_or_nan(all.reference, of[r].x);
#pragma unroll
    for (int r = 0; r < Most; ++r) {
        const float weight = r >= count || of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight, all.sum);
        control.part_factor[r][h] = pack_f16(weight * share, weight * share);
    }
    control.factor[h] = factor_of(all, sink) * Most;
    return all;
}

/// Adds up item rows of all splits and stores them.
struct Gather {
    const Params& params;
    const FewControl& control;
    const Board& board;
    const WidePlace& place;
    float back;  ///< what parts were divided by

    /// Rows `row` and, of two, `row + step` of half `half`; this split's part of a row is at `kept`, of the other
    /// `step` rows further. `AtOnce`: splits whose items a lane has in flight.
    template <int AtOnce, int Rows>
    __device__ __forceinline__ void add_up(int half, int row, int step, int last, std::uint32_t kept, int lane) const {
        __half2 sums[Rows][4] = {};
        const std::uint8_t* const from = board.items(0, half) + row * kRowBytes + lane * 16;
        uint4 v[Rows][AtOnce];
#pragma unroll
        for (int r = 0; r < Rows; ++r)
#pragma unroll
            for (int k = 0; k < AtOnce; ++k)
                v[r][k] = load_published(from + r * step * kRowBytes + k * kPublishedBytes,
                                         k < params.splits && k != place.rank && row + r * step < last);
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
            const int head = (row + r * step) % 8 * 8 + 2 * (lane & 3);
            add(sums[r], place.rank, head, load_shared_16(kept + r * step * kRowBytes + lane * 16));
#pragma unroll
            for (int k = 0; k < AtOnce; ++k) add(sums[r], k, head, v[r][k]);
        }
#pragma unroll
        for (int r = 0; r < Rows; ++r)
            if (row + r * step < last) store(sums[r], half, row + r * step, lane);
    }
    /// By all of `warps` warps.
    template <int Rows>
    __device__ __forceinline__ void add_up_all(int half, const OwnedRows& own, std::uint32_t kept, int warp, int warps,
                                               int lane) const {
        const bool deep = params.splits > kMostPublished / 2;
#pragma unroll 1
        for (int row = own.first + warp; row < own.last; row += deep ? warps : Rows * warps) {
            const std::uint32_t at = kept + (row - own.first) * kRowBytes;
            if (deep)
                add_up<kMostPublished, 1>(half, row, warps, own.last, at, lane);
            else
                add_up<kMostPublished / 2, Rows>(half, row, warps, own.last, at, lane);
        }
    }

  private:
    __device__ __forceinline__ void add(__half2 (&sums)[4], int source, int head, const uint4& item) const {
        const uint2 share = *reinterpret_cast<const uint2*>(&control.part_factor[source][head]);
        sums[0] = __hfma2(two(item.x), two(share.x), sums[0]);
        sums[1] = __hfma2(two(item.y), two(share.x), sums[1]);
        sums[2] = __hfma2(two(item.z), two(share.y), sums[2]);
        sums[3] = __hfma2(two(item.w), two(share.y), sums[3]);
    }
    __device__ __forceinline__ void store(__half2 (&sums)[4], int half, int row, int lane) const {
        // Lanes of neighbouring dimensions exchange tiles: four dimensions side by side each.
        const bool odd = lane / 4 % 2 != 0;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const std::uint32_t words[2] = {bits_of(sums[2 * e]), bits_of(sums[2 * e + 1])};
            const std::uint32_t other = __shfl_xor_sync(~0U, odd ? words[0] : words[1], 4);
            const std::uint32_t low = odd ? other : words[0];
            const std::uint32_t high = odd ? words[1] : other;
            sums[2 * e] = two(low);
            sums[2 * e + 1] = two(high);
        }
        const int head = row % 8 * 8 + 2 * (lane & 3);
        const int dim = row / 8 * 64 + half * 32 + lane / 4 % 2 * 16 + lane / 8 * 4;
        if (dim >= params.value_dim) return;
        const std::int64_t to =
            place.token * params.out_token_stride + (place.first_head + head) * params.out_head_stride + dim;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            if (place.first_head + head + e >= params.heads) break;
            const float factor = control.factor[head + e] * back;
            const float2 low = __half22float2(sums[2 * e]);
            const float2 high = __half22float2(sums[2 * e + 1]);
            const float out[4] = {low.x * factor, low.y * factor, high.x * factor, high.y * factor};
            sparse_decode::store_dims(params, to + e * params.out_head_stride, out);
        }
    }
    __device__ __forceinline__ static __half2 two(const std::uint32_t& halves) {
        return *reinterpret_cast<const __half2*>(&halves);
    }
};

}  // namespace tokamak::mla::cuda::wide_decode
