// SPDX-License-Identifier: Apache-2.0
// Eight finished dimensions of a head, side by side, to the caller's output.
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Of 16 bits each.
__device__ __forceinline__ void store_eight(const Params& params, std::int64_t at, const uint4& eight) {
    auto* const to = static_cast<std::uint16_t*>(params.out) + at;
    if (params.out_vectors) {
        *reinterpret_cast<uint4*>(to) = eight;
        return;
    }
    const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int e = 0; e < 8; ++e) to[e] = static_cast<std::uint16_t>(words[e / 2] >> (e % 2 * 16));
}
__device__ __forceinline__ void store_eight(const Params& params, std::int64_t at, const float (&v)[8]) {
    if (params.out_kind == OutKind::f32) {
#pragma unroll
        for (int e = 0; e < 8; ++e) static_cast<float*>(params.out)[at + e] = v[e];
        return;
    }
    std::uint32_t twos[4];
#pragma unroll
    for (int p = 0; p < 4; ++p)
        twos[p] =
            params.out_kind == OutKind::bf16 ? pack_bf16(v[2 * p], v[2 * p + 1]) : pack_f16(v[2 * p], v[2 * p + 1]);
    store_eight(params, at, uint4{twos[0], twos[1], twos[2], twos[3]});
}

}  // namespace tokamak::mla::cuda::sparse_decode
