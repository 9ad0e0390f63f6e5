// SPDX-License-Identifier: Apache-2.0
// The splits meet by way of the caller's workspace. A block that has stored its output says so by a flag, which it
// cleared when it started, and a barrier of the grid, long over when anybody reads, says that all have. Sums of heads
// show by themselves that they are there: no arithmetic gives the mark that was in their place.
#pragma once

#include "mla/cuda/grid_decode/values.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/store_dims.cuh"

namespace tokamak::mla::cuda::grid_decode {

inline constexpr std::uint32_t kMark = ~0U;         ///< a NaN that no conversion to f16 and no sum gives
inline constexpr int kItemRows = 4 * kDirectWarps;  ///< of a block: what its warps store at a time, 16 bytes a lane
inline constexpr int kItemBytes = kItemRows * 32 * 16;
inline constexpr int kBoardBytes = kItemBytes + kGridHeads * static_cast<int>(sizeof(float2)) + 32;  ///< and a flag

__device__ __forceinline__ void store_relaxed(std::uint8_t* at, const uint4& v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ void store_relaxed(std::uint8_t* at, const uint2& v) {
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(at), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ uint2 load_relaxed(const std::uint8_t* at) {
    uint2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at) : "memory");
    return v;
}

/// What the splits of a token and 32 heads publish.
class GridBoard {
    static constexpr int kOwned = kItemRows / kGridSplits;         ///< item rows that a split adds up
    static constexpr int kPairs = kOwned * 32 * 4 / kMainThreads;  ///< of dimensions, for a thread
    static_assert(kPairs == 2);

  public:
    __device__ __forceinline__ GridBoard(std::uint8_t* at, int rank) : at_(at), rank_(rank) {}

    /// By one thread, before anybody looks: nothing is announced yet.
    __device__ __forceinline__ void clear() const {
        asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" ::"l"(flag(rank_)) : "memory");
    }
    __device__ __forceinline__ void mark_sums(int h) const { store_relaxed(sums(rank_, h), uint2{kMark, kMark}); }

    /// A warp's output of one half of the heads.
    __device__ __forceinline__ void publish(const Output& out, int heads, int warp, int lane) const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const auto two = [&](int t, int x) { return pack_f16(out[t][2 * h + x], out[t + 1][2 * h + x]); };
            const uint4 v = {two(0, 0), two(2, 0), two(0, 1), two(2, 1)};
            store_relaxed(item(rank_, 4 * warp + 2 * heads + h, lane), v);
        }
    }
    __device__ __forceinline__ void publish(int h, float reference, float sum) const {
        const auto known = [](float v) {
            const std::uint32_t bits = __float_as_uint(v);
            return bits == kMark ? kMark >> 1 : bits;
        };
        store_relaxed(sums(rank_, h), uint2{known(reference), known(sum)});
    }
    [[nodiscard]] __device__ __forceinline__ float2 await_sums(int split, int h) const {
        uint2 v;
        do v = load_relaxed(sums(split, h));
        while (v.x == kMark || v.y == kMark);
        return {__uint_as_float(v.x), __uint_as_float(v.y)};
    }

    /// What a thread adds up: a few dimensions of a head.
    struct Item {
        int head, dim;
    };
    [[nodiscard]] __device__ __forceinline__ Item item_of(int thread) const {
        const int row = rank_ * kOwned + thread * kPairs / 128;
        const int pair = thread * kPairs % 128;  // of the item row: four pairs for each of 32 lanes
        const int lane = pair / 4;
        return {row % 4 * 8 + lane / 4, row / 4 * 32 + lane % 4 * 8 + pair % 4 * 2};
    }

    /// Of all splits, when they are there.
    struct Parts {
        std::uint32_t pairs[kGridSplits][kPairs];
    };
    /// By the same thread, behind a barrier of the warps that publish.
    __device__ __forceinline__ void announce() const {
        asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag(rank_)) : "memory");
    }
    /// By a warp: the items of all splits are there.
    __device__ __forceinline__ void await(int lane) const {
        const std::uint32_t* const of_split = flag(lane % kGridSplits);
        std::uint32_t set;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(set) : "l"(of_split) : "memory");
        while (__any_sync(~0U, set != 1));
        __syncwarp();
    }
    __device__ __forceinline__ void load(int thread, Parts& parts) const {
        const std::uint8_t* const from = at_ + rank_ * (kOwned * 512) + thread * (kPairs * 4);
#pragma unroll
        for (int s = 0; s < kGridSplits; ++s)
#pragma unroll
            for (int p = 0; p < kPairs / 2; ++p) {
                const uint2 v = load_relaxed(from + s * kBoardBytes + p * 8);
                parts.pairs[s][2 * p] = v.x;
                parts.pairs[s][2 * p + 1] = v.y;
            }
    }

    __device__ __forceinline__ static void add(const Parts& parts, const float* factors, float2 (&sums)[kPairs]) {
#pragma unroll
        for (int s = 0; s < kGridSplits; ++s) {
            const float factor = factors[s];
#pragma unroll
            for (int p = 0; p < kPairs; ++p) {
                const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&parts.pairs[s][p]));
                sums[p].x = fmaf(v.x, factor, s == 0 ? 0.0F : sums[p].x);
                sums[p].y = fmaf(v.y, factor, s == 0 ? 0.0F : sums[p].y);
            }
        }
    }
    static constexpr int kThreadPairs = kPairs;

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* item(int split, int row, int lane) const {
        return at_ + split * kBoardBytes + (row * 32 + lane) * 16;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* sums(int split, int h) const {
        return at_ + split * kBoardBytes + kItemBytes + h * 8;
    }

    [[nodiscard]] __device__ __forceinline__ std::uint32_t* flag(int split) const {
        return reinterpret_cast<std::uint32_t*>(sums(split, kGridHeads));
    }

    std::uint8_t* at_;
    int rank_;
};

/// By the helping threads, four for each head: tells the sums of this split, awaits those of the others, and finds what
/// the parts of each are multiplied by.
__device__ __forceinline__ void settle(const Params& params, GridControl& control, const GridBoard& board, int token,
                                       int first_head, int thread, bool stores) {
    constexpr int kEach = kGridSplits / 4;
    const auto over_four = [](float v, auto combine) {
        v = combine(v, __shfl_xor_sync(~0U, v, 1));
        return combine(v, __shfl_xor_sync(~0U, v, 2));
    };
    const auto add = [](float a, float b) { return a + b; };
    const int h = thread / 4;
    const int head = first_head + h;
    const float sink = head < params.heads ? sink_of(params, head) : -kInfinity;
    const float2 two = *reinterpret_cast<const float2*>(&control.sum[h][thread % 4 * 2]);
    const float own = over_four(two.x + two.y, add);
    if (thread % 4 == 0) board.publish(h, control.reference[h], own);
    float2 of[kEach];
#pragma unroll
    for (int s = 0; s < kEach; ++s) of[s] = board.await_sums(thread % 4 * kEach + s, h);
    HeadSums all;
    all.reference = of[0].x;
#pragma unroll
    for (int s = 1; s < kEach; ++s) all.reference = max_or_nan(all.reference, of[s].x);
    all.reference = over_four(all.reference, [](float a, float b) { return max_or_nan(a, b); });
    float weight[kEach];
    float sum = 0.0F;
#pragma unroll
    for (int s = 0; s < kEach; ++s) {
        weight[s] = of[s].x == kNoReference ? 0.0F : exp2_fast(of[s].x - all.reference);
        sum = fmaf(of[s].y, weight[s], sum);
    }
    all.sum = over_four(sum, add);
    const float factor = factor_of(all, sink);
#pragma unroll
    for (int s = 0; s < kEach; ++s) control.factor[h][thread % 4 * kEach + s] = weight[s] * factor;
    if (stores && thread % 4 == 0 && head < params.heads) store_statistics(params, token, head, all, sink);
}

}  // namespace tokamak::mla::cuda::grid_decode
