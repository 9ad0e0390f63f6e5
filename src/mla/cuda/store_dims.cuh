// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Four or eight finished dimensions of a head, side by side, to the caller's output.
template <int Count>
__device__ __forceinline__ void store_dims(const Params& params, std::int64_t at, const float (&v)[Count]) {
    static_assert(Count == 4 || Count == 8);
    if (params.out_kind == OutKind::f32) {
#pragma unroll
        for (int i = 0; i < Count; ++i) static_cast<float*>(params.out)[at + i] = v[i];
        return;
    }
    std::uint32_t words[Count / 2];
#pragma unroll
    for (int w = 0; w < Count / 2; ++w)
        words[w] =
            params.out_kind == OutKind::bf16 ? pack_bf16(v[2 * w], v[2 * w + 1]) : pack_f16(v[2 * w], v[2 * w + 1]);
    auto* const out = static_cast<std::uint16_t*>(params.out) + at;
    if (params.out_vectors) {
        if constexpr (Count == 8)
            *reinterpret_cast<uint4*>(out) = {words[0], words[1], words[2], words[3]};
        else
            *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
        return;
    }
#pragma unroll
    for (int i = 0; i < Count; ++i) out[i] = static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16));
}

}  // namespace tokamak::mla::cuda::sparse_decode
