// SPDX-License-Identifier: Apache-2.0
// Sums of several splits by way of the caller's workspace, for more splits than a cluster has blocks. A block that has
// stored something says so by flags, one for each split that reads it, which puts it back. So all flags are down when
// a launch ends, and nobody must clear them and wait until all blocks have. A raised flag is 64 bits of a kind that
// other contents of the workspace do not hold (2^-64 for each).
#pragma once

#include "mla/cuda/wide_decode/few_values.cuh"

namespace tokamak::mla::cuda::wide_decode {

inline constexpr std::uint64_t kRaised = 0x9E3779B97F4A7C15;
inline constexpr int kRowBytes = 512;             ///< an item row: of each lane, four dimensions of two heads
inline constexpr int kHalfRows = 8 * kHeads / 8;  ///< item rows of half of a block's output: by part, then by pair of heads
inline constexpr int kHalfBytes = kHalfRows * kRowBytes;
inline constexpr int kFlagKinds = 3;  ///< both halves of the output, the sums of its heads
inline constexpr int kSumsFlag = 2;
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

    /// Item row j of a warp's eight of a half.
    __device__ __forceinline__ void store(int split, int half, const uint4& item, int j, int part, int lane) const {
        store_published(items(split, half) + (part * (kHeads / 8) + j) * kRowBytes + lane * 16, item);
    }

    /// The first half, staged in shared memory, by two warps: the math warps' own stores would keep what they read then
    /// waiting.
    __device__ __forceinline__ void store_staged(int split, std::uint32_t from, int warp, int lane) const {
        constexpr int kAtOnce = 8;
        const std::uint32_t first = warp * (kHalfBytes / 2) + lane * 16;
#pragma unroll 1
        for (std::uint32_t at = first; at < first + kHalfBytes / 2; at += kAtOnce * kRowBytes) {
            uint4 v[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) v[i] = load_shared_16(from + at + i * kRowBytes);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) store_published(items(split, 0) + at + i * kRowBytes, v[i]);
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

/// Four finished dimensions to the caller's output.
__device__ __forceinline__ void store_four(const Params& params, std::int64_t at, const float (&v)[4]) {
    if (params.out_kind == OutKind::f32) {
#pragma unroll
        for (int i = 0; i < 4; ++i) static_cast<float*>(params.out)[at + i] = v[i];
        return;
    }
    std::uint32_t words[2];
#pragma unroll
    for (int w = 0; w < 2; ++w)
        words[w] =
            params.out_kind == OutKind::bf16 ? pack_bf16(v[2 * w], v[2 * w + 1]) : pack_f16(v[2 * w], v[2 * w + 1]);
    auto* const out = static_cast<std::uint16_t*>(params.out) + at;
    if (params.out_vectors) {
        *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16));
}

/// Adds up the item rows of a half that this split owns and stores them; by the math warps. A lane has eight items in
/// flight: of up to eight splits, or, of half an item row, those of every other of up to sixteen splits. Sums are f16 as
/// the parts are. `ready()` is awaited when addresses are known.
template <typename Ready>
__device__ __forceinline__ void gather_half(const Params& params, const FewControl& control, const Board& board,
                                            const WidePlace& place, float back, int half, int warp, int lane,
                                            const Ready& ready) {
    constexpr int kFlight = 8;
    const int splits = params.splits;
    const bool deep = splits > kFlight;
    const int owned = over_splits(params, kHalfRows + splits - 1);
    const int first = place.rank * owned;
    const int last = min(kHalfRows, first + owned);
    const auto half_of = [](const std::uint32_t& two) { return *reinterpret_cast<const __half2*>(&two); };
    const int shift = deep ? 1 : 0;
    bool waited = false;
#pragma unroll 1
    for (int unit = (first << shift) + warp; unit < last << shift; unit += kFewMath / 32) {
        const int row = unit >> shift;
        const int item = deep ? unit % 2 * 16 + lane % 16 : lane;
        const int source = deep ? lane / 16 : 0;
        const std::uint8_t* const from = board.items(source, half) + row * kRowBytes + item * 16;
        const int step = kPublishedBytes << shift;
        const int head = row % 8 * 8 + 2 * (item & 3);
        const int dim = row / 8 * 64 + half * 32 + item / 4 * 4;
        std::int64_t to = place.token * params.out_token_stride + (place.first_head + head) * params.out_head_stride + dim;
        asm volatile("" : "+l"(to));
        if (!waited) ready();
        waited = true;
        uint4 v[kFlight];
#pragma unroll
        for (int k = 0; k < kFlight; ++k) v[k] = load_published(from + k * step, (k << shift) + source < splits);
        __half2 sums[2][2] = {};
#pragma unroll
        for (int k = 0; k < kFlight; ++k) {
            const uint2 share = *reinterpret_cast<const uint2*>(&control.part_factor[(k << shift) + source][head]);
            sums[0][0] = __hfma2(half_of(v[k].x), half_of(share.x), sums[0][0]);
            sums[0][1] = __hfma2(half_of(v[k].y), half_of(share.x), sums[0][1]);
            sums[1][0] = __hfma2(half_of(v[k].z), half_of(share.y), sums[1][0]);
            sums[1][1] = __hfma2(half_of(v[k].w), half_of(share.y), sums[1][1]);
        }
        if (deep) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[e / 2][e % 2] = __hadd2(sums[e / 2][e % 2], __shfl_xor_sync(~0U, sums[e / 2][e % 2], 16));
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const float factor = control.factor[head + e] * back;
            const float2 low = __half22float2(sums[e][0]);
            const float2 high = __half22float2(sums[e][1]);
            const float out[4] = {low.x * factor, low.y * factor, high.x * factor, high.y * factor};
            const bool mine = !deep || source == e;
            if (mine && place.first_head + head + e < params.heads && dim < params.value_dim)
                store_four(params, to + e * params.out_head_stride, out);
        }
    }
    if (!waited) ready();
}

}  // namespace tokamak::mla::cuda::wide_decode
