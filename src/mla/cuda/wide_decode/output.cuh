// SPDX-License-Identifier: Apache-2.0
// A warp's 64 dimensions of 64 heads to the caller's output, or to the exchange between splits: a lane has eight
// dimensions side by side of each head.
#pragma once

#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/wide_decode/accumulate.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Dimensions 8 g + i of head number `e` of column pair j.
__device__ __forceinline__ float value_of(const Sums<kHeads>& sums, int j, int e, int i) {
    return sums.tile[i / 2][4 * j + i % 2 * 2 + e];
}

__device__ __forceinline__ void store_sums(const Params& params, const Sums<kHeads>& sums, int token, int first_head,
                                           int part, int lane) {
    if (part * 64 >= params.value_dim) return;
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int head = first_head + 8 * j + 2 * (lane & 3) + e;
            if (head >= params.heads) continue;
            const std::int64_t at =
                token * params.out_token_stride + head * params.out_head_stride + part * 64 + lane / 4 * 8;
            if (params.out_kind == OutKind::f32) {
#pragma unroll
                for (int i = 0; i < 8; ++i) static_cast<float*>(params.out)[at + i] = value_of(sums, j, e, i);
                continue;
            }
            std::uint32_t words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const float a = value_of(sums, j, e, 2 * w);
                const float b = value_of(sums, j, e, 2 * w + 1);
                words[w] = params.out_kind == OutKind::bf16 ? pack_bf16(a, b) : pack_f16(a, b);
            }
            auto* const out = static_cast<std::uint16_t*>(params.out) + at;
            if (params.out_vectors) {
                *reinterpret_cast<uint4*>(out) = {words[0], words[1], words[2], words[3]};
            } else {
#pragma unroll
                for (int i = 0; i < 8; ++i) out[i] = static_cast<std::uint16_t>(words[i / 2] >> (i % 2 * 16));
            }
        }
    }
}

/// Four parts of 16 dimensions. A fence and a barrier of the warp must follow.
__device__ __forceinline__ void stage_sums(const Exchange<kHeads, true, false>& exchange, const Sums<kHeads>& sums,
                                           int part, int lane) {
    const std::uint32_t to = exchange.place_of(part * 4 + lane / 8);
    const float factor = exchange.down();
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            std::uint32_t words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w)
                words[w] = pack_f16(value_of(sums, j, e, 2 * w) * factor, value_of(sums, j, e, 2 * w + 1) * factor);
            store_shared(to + exchange.offset(8 * j + 2 * (lane & 3) + e, lane / 4 % 2),
                         {words[0], words[1], words[2], words[3]});
        }
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
