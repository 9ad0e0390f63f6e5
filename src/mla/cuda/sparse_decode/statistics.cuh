// SPDX-License-Identifier: Apache-2.0
// From the sums of one or several splits to a head's divisor, lse and largest logit.
#pragma once

#include "mla/cuda/sparse_decode/score.cuh"

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr float kLn2 = 0.693147180559945309F;
inline constexpr float kLog2E = 1.44269504088896341F;

/// Sums of all splits, in the shared memory of every block of the cluster: [split][which][head].
template <int N>
struct SplitSums {
    float top[N];
    float reference[N];
    float sum[N];
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
        float lse = s.top == kNothing ? kNothing : s.reference + log2f(s.sum);
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
    return params.sink == nullptr ? kNothing : params.sink[head * params.sink_stride] * kLog2E;
}

/// What sums relative to `reference` are multiplied by; 0 for an empty head.
__device__ __forceinline__ float factor_of(const HeadSums& all, float sink, float reference) {
    if (all.top == kNothing || reference == kNothing) return 0.0F;
    return exp2f(reference - all.reference) / (all.sum + exp2f(sink - all.reference));
}

/// Tells every block of the cluster this split's sums.
template <int N>
__device__ __forceinline__ void share_sums(SplitSums<N>* splits, int rank, int count, int h, const HeadSums& own) {
    for (int r = 0; r < count; ++r) {
        ptx::store_in_cluster(ptx::address_in(r, &splits[rank].top[h]), own.top);
        ptx::store_in_cluster(ptx::address_in(r, &splits[rank].reference[h]), own.reference);
        ptx::store_in_cluster(ptx::address_in(r, &splits[rank].sum[h]), own.sum);
    }
}

/// Sums of all splits together, added in ascending order.
template <int N>
__device__ __forceinline__ HeadSums merge_sums(const SplitSums<N>* splits, int count, int h) {
    HeadSums all;
    for (int r = 0; r < count; ++r) {
        all.top = max_or_nan(all.top, splits[r].top[h]);
        all.reference = max_or_nan(all.reference, splits[r].reference[h]);
    }
    for (int r = 0; r < count; ++r)
        if (splits[r].reference[h] != kNothing)
            all.sum += splits[r].sum[h] * exp2f(splits[r].reference[h] - all.reference);
    return all;
}

}  // namespace tokamak::mla::cuda::sparse_decode
