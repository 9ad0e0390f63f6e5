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
enum : int { kOutFlag, kSumsFlag, kFlagKinds };
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

/// An item: a lane's sums of heads 8 j + 2 (lane % 4) and the next, four dimensions each, in f16.
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

/// Item rows that a split adds up. Its own parts of them stay in shared memory.
struct OwnedRows {
    int first, last;
    __device__ __forceinline__ OwnedRows(const Params& params, int rank) {
        const int owned = over_splits(params, 2 * kHalfRows + params.splits - 1);
        first = rank * owned;
        last = min(2 * kHalfRows, first + owned);
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

    /// Item row `row`; into its place at `kept` if the split owns it.
    __device__ __forceinline__ void store(int split, const OwnedRows& own, std::uint32_t kept, int row,
                                          const uint4& item, int lane) const {
        const int at = row * kRowBytes + lane * 16;
        if (own.has(row))
            store_shared(kept + at, item);
        else
            store_published(items(split, 0) + at, item);
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

/// A head's sums of all splits together. Leaves two f16 numbers by which a split's parts of
/// a head are multiplied: a 16th of at most 1, so that sums of sixteen parts stay in range.
__device__ __forceinline__ HeadSums merge_published(const Board& board, FewControl& control, int count, int h,
                                                    float sink) {
    float2 of[kMostPublished];
#pragma unroll
    for (int r = 0; r < kMostPublished; ++r)
        asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
                     : "=f"(of[r].x), "=f"(of[r].y)
                     : "l"(board.sums(min(r, count - 1)) + h)
                     : "memory");
    HeadSums all;
#pragma unroll
    for (int r = 0; r < kMostPublished; ++r) all.reference = max_or_nan(all.reference, of[r].x);
#pragma unroll
    for (int r = 0; r < kMostPublished; ++r) {
        const float weight = r >= count || of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight, all.sum);
        control.part_factor[r][h] = pack_f16(weight * 0.0625F, weight * 0.0625F);
    }
    control.factor[h] = factor_of(all, sink) * 16.0F;
    return all;
}

/// Adds up the item rows that this split owns and stores them; by the math warps. A lane has sixteen items in flight:
/// of up to sixteen splits, or of up to eight, and of two rows. Sums are f16 as the parts are. `ready()` is awaited
/// when addresses are known.
template <typename Ready>
__device__ __forceinline__ void gather_published(const Params& params, const FewControl& control, const Board& board,
                                                 std::uint32_t kept, const WidePlace& place, float back, int warp,
                                                 int lane, const Ready& ready) {
    constexpr int kWarps = kFewMath / 32;
    const int splits = params.splits;
    const bool deep = splits > kMostPublished / 2;
    const OwnedRows own(params, place.rank);
    const auto half_of = [](const std::uint32_t& two) { return *reinterpret_cast<const __half2*>(&two); };
    bool waited = false;
#pragma unroll 1
    for (int row = own.first + warp; row < own.last; row += deep ? kWarps : 2 * kWarps) {
        const std::uint8_t* const from = board.items(0, 0) + row * kRowBytes + lane * 16;
        const auto source_of = [&](int k) { return deep ? k : k % 8; };
        const auto counts = [&](int k) {
            return source_of(k) < splits && source_of(k) != place.rank && (deep || k < 8 || row + kWarps < own.last);
        };
        const auto head_of = [&](int set) { return (row + set * kWarps) % 8 * 8 + 2 * (lane & 3); };
        const int heads[2] = {head_of(0), head_of(deep ? 0 : 1)};
        std::int64_t to[2];
#pragma unroll
        for (int set = 0; set < 2; ++set) {
            const int r = row + set * kWarps;
            const int dim = r / 8 % 8 * 64 + r / kHalfRows * 32 + lane / 4 * 4;
            to[set] =
                place.token * params.out_token_stride + (place.first_head + heads[set]) * params.out_head_stride + dim;
            asm volatile("" : "+l"(to[set]));  // found before the wait
        }
        if (!waited) ready();
        waited = true;
        uint4 v[kMostPublished];
#pragma unroll
        for (int k = 0; k < kMostPublished; ++k)
            v[k] = load_published(from + source_of(k) * kPublishedBytes + (deep ? 0 : k / 8 * (kWarps * kRowBytes)),
                                  counts(k));
        __half2 sums[2][4] = {};
        const auto add = [&](int set, int source, const uint4& item) {
            const uint2 share = *reinterpret_cast<const uint2*>(&control.part_factor[source][heads[set]]);
            sums[set][0] = __hfma2(half_of(item.x), half_of(share.x), sums[set][0]);
            sums[set][1] = __hfma2(half_of(item.y), half_of(share.x), sums[set][1]);
            sums[set][2] = __hfma2(half_of(item.z), half_of(share.y), sums[set][2]);
            sums[set][3] = __hfma2(half_of(item.w), half_of(share.y), sums[set][3]);
        };
        const std::uint32_t own_item = kept + row * kRowBytes + lane * 16;
        add(0, place.rank, load_shared_16(own_item));
        if (!deep && row + kWarps < own.last) add(1, place.rank, load_shared_16(own_item + kWarps * kRowBytes));
#pragma unroll
        for (int k = 0; k < kMostPublished; ++k) add(k / 8, source_of(k), v[k]);
#pragma unroll
        for (int set = 0; set < 2; ++set) {
            if (set == 1 && (deep || row + kWarps >= own.last)) break;
            const int r = row + set * kWarps;
            if (r / 8 % 8 * 64 + r / kHalfRows * 32 + lane / 4 * 4 >= params.value_dim) continue;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float factor = control.factor[heads[set] + e] * back;
                float out[4];
#pragma unroll
                for (int w = 0; w < 2; ++w) {
                    const __half2 sum = deep ? __hadd2(sums[0][2 * e + w], sums[1][2 * e + w]) : sums[set][2 * e + w];
                    const float2 two = __half22float2(sum);
                    out[2 * w] = two.x * factor;
                    out[2 * w + 1] = two.y * factor;
                }
                if (place.first_head + heads[set] + e < params.heads)
                    sparse_decode::store_dims(params, to[set] + e * params.out_head_stride, out);
            }
        }
    }
    if (!waited) ready();
}

}  // namespace tokamak::mla::cuda::wide_decode
