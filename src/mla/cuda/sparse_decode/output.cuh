// SPDX-License-Identifier: Apache-2.0
// Finished tiles of 64 dimensions by N heads to the caller's output.
#pragma once

#include "mla/cuda/sparse_decode/accumulate.cuh"

namespace tokamak::mla::cuda::sparse_decode {

struct Target {
    int token, first_head, group, warp, lane;  ///< warp and lane in the accumulating warpgroup `group`
};

template <int N>
__device__ __forceinline__ void store_tile_f32(const Params& params, const Target& at, int tile,
                                               const float (&sums)[N / 2]) {
    float* const out = static_cast<float*>(params.out) + at.token * params.out_token_stride;
    const int dim = tile * kSlabDims + at.warp * 16 + at.lane / 4;
#pragma unroll
    for (int g = 0; g < N / 8; ++g) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int head = at.first_head + 8 * g + 2 * (at.lane & 3) + e % 2;
            if (head < params.heads) out[head * params.out_head_stride + dim + e / 2 * 8] = sums[4 * g + e];
        }
    }
}

/// bf16 and f16 go through N * 128 bytes of shared memory at `staging`, so that a head's 128 bytes leave together.
template <int N>
__device__ __forceinline__ void store_tile(const Params& params, const Target& at, int tile, const float (&sums)[N / 2],
                                           std::uint32_t staging) {
    if (tile * kSlabDims >= params.value_dim) return;
    if (params.out_kind == OutKind::f32) return store_tile_f32<N>(params, at, tile, sums);
    std::uint32_t pairs[N / 4];
#pragma unroll
    for (int i = 0; i < N / 4; ++i)
        pairs[i] = params.out_kind == OutKind::bf16 ? pack_bf16(sums[2 * i], sums[2 * i + 1])
                                                    : pack_f16(sums[2 * i], sums[2 * i + 1]);
    store_transposed<N>(staging, pairs, at.warp, at.lane);
    ptx::named_barrier(kTileBarrier + at.group, 128);
    const int thread = at.warp * 32 + at.lane;
    auto* const out = static_cast<std::uint16_t*>(params.out) + at.token * params.out_token_stride + tile * kSlabDims;
    for (int i = thread; i < N * 8; i += 128) {
        const int head = at.first_head + i / 8;
        if (head >= params.heads) break;
        const uint4 eight = load_shared_16(staging + swizzled(i / 8, i % 8));
        std::uint16_t* const to = out + head * params.out_head_stride + i % 8 * 8;
        if (params.out_vectors) {
            *reinterpret_cast<uint4*>(to) = eight;
        } else {
            const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
            for (int e = 0; e < 8; ++e) to[e] = static_cast<std::uint16_t>(words[e / 2] >> (e % 2 * 16));
        }
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
