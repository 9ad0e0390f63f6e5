// SPDX-License-Identifier: Apache-2.0
// Products of warpgroups. Scores of bf16 rows: a block of rows is scored by several warpgroups, each some of the slabs.
// Output: every warpgroup has two tiles of 64 dimensions.
#pragma once

#include "cuda/ptx/wgmma_16bit_n24.cuh"
#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// score += this warpgroup's share of the slabs of its block of bf16 rows.
template <int Dim, int N, int Blocks>
__device__ __forceinline__ void multiply_rows(unsigned char* shared, int group, float (&score)[N / 2]) {
    using S = Shape<Dim, N, false, Blocks>;
    constexpr int kEach = S::kSlabs / S::kShares;
    const int block = group % Blocks;
    const int first = group / Blocks * kEach;
    const std::uint64_t rows = ptx::wgmma_descriptor(shared + S::slab(block, 0));
    const std::uint64_t queries = ptx::wgmma_descriptor(shared + S::kQueries);
    const auto multiply = [&](std::uint64_t slab, int s) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma_16bit<false, false>(score, slab + 2 * k, queries + s * (N * 128 / 16) + 2 * k, true);
    };
    ptx::wgmma_fence();
#pragma unroll
    for (int s = 0; s < kEach; ++s) multiply(rows + (first + s) * (kSlabBytes / 16), first + s);
    if constexpr (S::kRotarySlabs > 0) {
        static_assert(S::kSlabs % S::kShares == 1);
        if (group < Blocks) multiply(ptx::wgmma_descriptor(shared + S::slab(block, S::kSlabs - 1)), S::kSlabs - 1);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
}

/// Adds the shares of a row's scores: the warps with the first one have the sums.
template <int Dim, int N, bool Half, int Blocks>
__device__ __forceinline__ void add_shares(std::uint32_t base, int warp, int lane, float (&score)[N / 2]) {
    using S = Shape<Dim, N, Half, Blocks>;
    constexpr int kBytes = 16 * N * 4;
    const int rows = warp % S::kRowWarps;
    const int share = warp / S::kRowWarps;
    const std::uint32_t at = base + S::kScores + rows * kBytes + lane * 16;
    if (share > 0) {
#pragma unroll
        for (int q = 0; q < N / 8; ++q)
            store_shared(at + (share - 1) * S::kRowWarps * kBytes + q * 512,
                         {__float_as_uint(score[4 * q]), __float_as_uint(score[4 * q + 1]),
                          __float_as_uint(score[4 * q + 2]), __float_as_uint(score[4 * q + 3])});
    }
    ptx::named_barrier(kSharesBarrier + rows, 32 * S::kShares);
    if (share > 0) return;
#pragma unroll
    for (int other = 0; other + 1 < S::kShares; ++other) {
#pragma unroll
        for (int q = 0; q < N / 8; ++q) {
            const uint4 v = load_shared_16(at + other * S::kRowWarps * kBytes + q * 512);
            score[4 * q] += __uint_as_float(v.x);
            score[4 * q + 1] += __uint_as_float(v.y);
            score[4 * q + 2] += __uint_as_float(v.z);
            score[4 * q + 3] += __uint_as_float(v.w);
        }
    }
}

/// Starts the products of a warpgroup's two tiles, one group of products each; columns are heads, rows dimensions.
template <int Dim, int N, bool Half, int Blocks>
__device__ __forceinline__ void multiply_values(unsigned char* shared, int group, float (&tile)[2][N / 2]) {
    using S = Shape<Dim, N, Half, Blocks>;
    const std::uint64_t weights = ptx::wgmma_descriptor(shared + S::kWeights);
    const std::uint64_t values = ptx::wgmma_descriptor(shared + S::slab(0, 2 * group));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int b = 0; b < Blocks; ++b)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<Half, true>(tile[i], values + S::slab(b, i) / 16 - S::slab(0, 0) / 16 + 128 * k,
                                             weights + b * (N * 128 / 16) + 2 * k, b + k > 0);
        ptx::wgmma_commit();
    }
}

}  // namespace tokamak::mla::cuda::flat_decode
