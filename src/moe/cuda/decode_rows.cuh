// SPDX-License-Identifier: Apache-2.0
// Brings token rows into shared memory in the form that multiply_tile reads.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/tile_n8.cuh"

namespace tokamak::moe::cuda {

/// Up to 8 of 8 tokens, four bits each, in ascending order.
struct TokenList {
    std::uint32_t tokens = 0;
    int count = 0;

    __device__ void add(int token) { tokens |= static_cast<std::uint32_t>(token) << (4 * count++); }
    [[nodiscard]] __device__ int at(int i) const { return static_cast<int>(tokens >> (4 * i) & 15U); }
};

/// Where the rows lie and where they go.
struct RowCopy {
    int cols = 0;         ///< true columns; a multiple of 8
    int padded_cols = 0;  ///< zeros beyond the true ones
    bool vectors = true;  ///< rows are aligned to 16 bytes
    __nv_bfloat16* rows = nullptr;
    float* sums = nullptr;
    int thread = 0;
    int threads = 0;
};

__device__ __forceinline__ uint4 load_eight(const __nv_bfloat16* from, bool vectors) {
    // Past the L1: rows of the intermediate were written by other SMs a moment ago.
    if (vectors) return __ldcg(reinterpret_cast<const uint4*>(from));
    uint4 eight;
    auto* words = reinterpret_cast<std::uint32_t*>(&eight);
    const auto* halves = reinterpret_cast<const unsigned short*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        words[i] = __ldcg(halves + 2 * i) | static_cast<std::uint32_t>(__ldcg(halves + 2 * i + 1)) << 16;
    return eight;
}

/// Stores eight columns, scaled so that subnormal weights give normal products, and sums the group they belong to.
template <class Tile>
__device__ __forceinline__ void store_eight(const RowCopy& copy, uint4 eight, int token, int vector) {
    using Decode = typename Tile::Decode;
    const __nv_bfloat162 factor = __float2bfloat162_rn(Decode::kActivationScale);
    auto* pairs = reinterpret_cast<__nv_bfloat162*>(&eight);
    float sum = 0.0F;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        sum += __low2float(pairs[p]) + __high2float(pairs[p]);
        pairs[p] = __hmul2(pairs[p], factor);
    }
    const int stride = tokamak::cuda::token_stride(copy.padded_cols);
    *reinterpret_cast<uint4*>(copy.rows + token * stride + vector * 8) = eight;
    if constexpr (Decode::kHasZeroPoint) {
        constexpr int lanes = Tile::kGroup / 8;  // neighbours that share a group
        const unsigned mask = ((1U << lanes) - 1U) << (threadIdx.x % 32 / lanes * lanes);
#pragma unroll
        for (int distance = 1; distance < lanes; distance *= 2) sum += __shfl_xor_sync(mask, sum, distance);
        if (vector % lanes == 0) copy.sums[vector / lanes * tokamak::cuda::kTileTokens + token] = sum;
    }
}

/// Loads the rows that `source(token)` points to. Rows of a whole number of groups: the lanes of a group stay together.
template <class Tile, class Source>
__device__ __forceinline__ void load_rows(const RowCopy& copy, const TokenList& list, const Source& source) {
    constexpr int batch = 8;  // loads in flight per thread
    const int row_vectors = copy.padded_cols / 8;
    const int total = list.count * row_vectors;
    for (int begin = copy.thread; begin < total; begin += batch * copy.threads) {
        uint4 loaded[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int job = begin + i * copy.threads;
            const int vector = job % row_vectors;
            loaded[i] = {0, 0, 0, 0};
            if (job < total && vector * 8 < copy.cols)
                loaded[i] = load_eight(source(list.at(job / row_vectors)) + vector * 8, copy.vectors);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int job = begin + i * copy.threads;
            if (job < total) store_eight<Tile>(copy, loaded[i], list.at(job / row_vectors), job % row_vectors);
        }
    }
}

}  // namespace tokamak::moe::cuda
