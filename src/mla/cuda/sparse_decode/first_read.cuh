// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Columns of a token that count, by what lies first among the parameters.
__device__ __forceinline__ int live_columns(const FirstRead& first, int pool, int token) {
    const int most = first.top_k[pool];
    if (first.pools[pool].lengths == nullptr) return most;
    return max(0, min(first.pools[pool].lengths[token * first.pools[pool].length_stride], most));
}

}  // namespace tokamak::mla::cuda::sparse_decode
