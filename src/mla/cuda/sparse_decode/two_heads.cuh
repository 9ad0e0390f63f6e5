// SPDX-License-Identifier: Apache-2.0
// What a lane has of its two heads, g and g + 8 of a warp's sixteen (g = lane / 4), whose rows four lanes share.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

struct TwoHeads {
    float a, b;
};

/// The largest ones of the four lanes, or NaN.
[[nodiscard]] __device__ __forceinline__ TwoHeads largest_of_quad(TwoHeads top) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        top.a = max_or_nan(top.a, __shfl_xor_sync(~0U, top.a, step));
        top.b = max_or_nan(top.b, __shfl_xor_sync(~0U, top.b, step));
    }
    return top;
}

[[nodiscard]] __device__ __forceinline__ TwoHeads sum_of_quad(TwoHeads sum) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        sum.a += __shfl_xor_sync(~0U, sum.a, step);
        sum.b += __shfl_xor_sync(~0U, sum.b, step);
    }
    return sum;
}

}  // namespace tokamak::mla::cuda::sparse_decode
