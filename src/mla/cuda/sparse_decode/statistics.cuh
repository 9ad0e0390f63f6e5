// SPDX-License-Identifier: Apache-2.0
// From the sums of one or several splits to a head's divisor, lse and largest logit.
#pragma once

#include "mla/cuda/sparse_decode/score.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr float kLn2 = 0.693147180559945309F;
inline constexpr float kLog2E = 1.44269504088896341F;

/// Sums of a split in the shared memory of every block of the cluster: x reference, y sum, z largest score. A head's
/// thread puts the factor of the split's outputs in place of x.
template <int N>
struct SplitSums {
    float4 head[N];
};

/// log2(2^a + 2^b). An infinity dominates, NaN stays NaN.
__device__ __forceinline__ float log2_add(float a, float b) {
    const float larger = max_or_nan(a, b);
    if (isinf(larger) || isnan(larger)) return larger;
    return larger + log2f(1.0F + exp2f(fminf(a, b) - larger));
}

/// Writes a head's statistics.
__device__ __forceinline__ void store_statistics(const Params& params, int token, int head, const HeadSums& s,
                                                 float sink) {
    if (params.lse != nullptr) {
        float lse = s.reference == kNoReference ? -kInfinity : s.reference + log2f(s.sum);
        if (params.lse_with_sink) lse = log2_add(lse, sink);
        params.lse[token * params.lse_token_stride + head * params.lse_head_stride] =
            params.lse_base_two ? lse : lse * kLn2;
    }
    if (params.max_logits != nullptr) {
        float top = s.top * kLn2;
        const float natural = sink * kLn2;
        if (params.max_with_sink && !isnan(top) && (natural > top || isnan(natural))) top = natural;
        params.max_logits[token * params.max_token_stride + head * params.max_head_stride] = top;
    }
}

/// The sink as an exponent of 2; absent: -infinity.
__device__ __forceinline__ float sink_of(const Params& params, int head) {
    return params.sink == nullptr ? -kInfinity : params.sink[head * params.sink_stride] * kLog2E;
}

/// What sums relative to all.reference are multiplied by; 0 for an empty head.
__device__ __forceinline__ float factor_of(const HeadSums& all, float sink) {
    if (all.reference == kNoReference) return 0.0F;
    return __fdividef(1.0F, all.sum + exp2_fast(sink - all.reference));
}

/// Tells the blocks of the other splits this split's sums.
template <int N, bool Pair, typename Control>
__device__ __forceinline__ void share_sums(Control& control, SplitSums<N>* splits, int rank, int count, int h,
                                           const HeadSums& own) {
    const float4 sums = {own.reference, own.sum, own.top, 0.0F};
    splits[rank].head[h] = sums;
    for (int r = 0; r < count; ++r)
        if (r != rank)
            ptx::store_counted(ptx::address_in(in_cluster<Pair>(r), &splits[rank].head[h]), sums,
                               ptx::address_in(in_cluster<Pair>(r), &control.told));
}

/// Sums of all splits together, added in ascending order; puts each split's factor in place of its reference.
template <int N>
__device__ __forceinline__ HeadSums merge_sums(SplitSums<N>* splits, int count, int h, float sink) {
    HeadSums all;
    float4 of[kMaxSplits];
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) {
        of[r] = {kNoReference, 0.0F, -kInfinity, 0.0F};
        if (r < count) of[r] = splits[r].head[h];
    }
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) {
        all.top = max_or_nan(all.top, of[r].z);
        all.reference = max_or_nan(all.reference, of[r].x);
    }
    float weight[kMaxSplits];
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r) {
        weight[r] = of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight[r], all.sum);
    }
    // A split whose last rows are masked may take the infinity below these for a reference in place of NaN.
    if (isnan(all.sum)) all.reference = all.sum;
    const float factor = factor_of(all, sink);
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r)
        if (r < count) splits[r].head[h].x = weight[r] * factor;
    return all;
}

}  // namespace tokamak::mla::cuda::sparse_decode
