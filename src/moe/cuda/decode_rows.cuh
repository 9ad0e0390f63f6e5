// SPDX-License-Identifier: Apache-2.0
// Brings token rows into shared memory in the form that multiply_tile reads.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/tile_n8.cuh"
#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

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

/// Walks over (row of a list, vector of eight columns) in steps of the threads that share the work.
class RowWalk {
  public:
    __device__ RowWalk(const RowCopy& copy)
        : vectors_(copy.padded_cols / 8),
          row_step_(copy.threads / vectors_),
          vector_step_(copy.threads - row_step_ * vectors_),
          row_(copy.thread / vectors_),
          vector_(copy.thread - row_ * vectors_) {}
    __device__ void step() {
        row_ += row_step_;
        vector_ += vector_step_;
        if (vector_ < vectors_) return;
        vector_ -= vectors_;
        ++row_;
    }
    [[nodiscard]] __device__ int row() const { return row_; }
    [[nodiscard]] __device__ int vector() const { return vector_; }

  private:
    int vectors_, row_step_, vector_step_, row_, vector_;
};

/// Loads the rows that `source(token)` points to. Rows of a whole number of groups: the lanes of a group stay together.
template <class Tile, class Source>
__device__ __forceinline__ void load_rows(const RowCopy& copy, const TokenList& list, const Source& source) {
    constexpr int batch = 4;  // loads in flight per thread
    RowWalk load(copy);
    RowWalk store = load;
    while (store.row() < list.count) {
        uint4 loaded[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i, load.step()) {
            loaded[i] = {0, 0, 0, 0};
            if (load.row() < list.count && load.vector() * 8 < copy.cols)
                loaded[i] = load_eight(source(list.at(load.row())) + load.vector() * 8, copy.vectors);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i, store.step())
            if (store.row() < list.count) store_eight<Tile>(copy, loaded[i], list.at(store.row()), store.vector());
    }
}

}  // namespace tokamak::moe::cuda
