// SPDX-License-Identifier: Apache-2.0
// Both products on the tensor cores. Scores: a block of rows is scored by several warpgroups, each some of
// the slabs, and their parts are added. Output: every warpgroup has two tiles of 64 dimensions.
#pragma once

#include "cuda/ptx/wgmma_16bit_n24.cuh"
#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// score += this warpgroup's share of the slabs of its block; once more as long as `again` puts other rows there.
template <int Dim, int N, bool Half, int Blocks, typename Again>
__device__ __forceinline__ void multiply_rows(unsigned char* shared, int group, float (&score)[N / 2],
                                              const Again& again) {
    using S = Shape<Dim, N, Blocks>;
    constexpr int kEach = S::kSlabs / S::kShares;
    constexpr int kMore = S::kSlabs % S::kShares;  // the first slab, if any, is the first share's
    static_assert(kMore <= 1);
    const int first = kMore + group / Blocks * kEach;
    const std::uint64_t rows = ptx::wgmma_descriptor(shared + S::kRing + group % Blocks * S::kSlabs * kSlabBytes);
    const std::uint64_t queries = ptx::wgmma_descriptor(shared + S::kQueries);
    const auto multiply = [&](int p) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma_16bit<Half, false>(score, rows + p * (kSlabBytes / 16) + 2 * k,
                                          queries + p * (N * 128 / 16) + 2 * k, true);
    };
    do {
        ptx::wgmma_fence();
        if (kMore > 0 && group < Blocks) multiply(0);
#pragma unroll
        for (int p = 0; p < kEach; ++p) multiply(first + p);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
    } while (again());
}

/// Adds the shares of a block's scores; the first Blocks warpgroups have the sums. A barrier of all threads between.
template <int Dim, int N, int Blocks>
__device__ __forceinline__ void add_shares(std::uint32_t base, int group, int thread, float (&score)[N / 2]) {
    using S = Shape<Dim, N, Blocks>;
    constexpr int kBytes = kRowBlock * N * 4;
    const std::uint32_t at = base + S::kScores + thread * 16;
    if (group >= Blocks) {
#pragma unroll
        for (int q = 0; q < N / 8; ++q)
            store_shared(at + (group - Blocks) * kBytes + q * 2048,
                         {__float_as_uint(score[4 * q]), __float_as_uint(score[4 * q + 1]),
                          __float_as_uint(score[4 * q + 2]), __float_as_uint(score[4 * q + 3])});
    }
    __syncthreads();
    if (group >= Blocks) return;
#pragma unroll
    for (int share = 1; share < S::kShares; ++share) {
#pragma unroll
        for (int q = 0; q < N / 8; ++q) {
            const uint4 v = load_shared_16(at + (group + (share - 1) * Blocks) * kBytes + q * 2048);
            score[4 * q] += __uint_as_float(v.x);
            score[4 * q + 1] += __uint_as_float(v.y);
            score[4 * q + 2] += __uint_as_float(v.z);
            score[4 * q + 3] += __uint_as_float(v.w);
        }
    }
}

/// Starts the products of a warpgroup's two tiles; columns are heads, rows dimensions.
template <int Dim, int N, bool Half, int Blocks>
__device__ __forceinline__ void multiply_values(unsigned char* shared, int group, float (&tile)[2][N / 2]) {
    using S = Shape<Dim, N, Blocks>;
    const std::uint64_t weights = ptx::wgmma_descriptor(shared + S::kWeights);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const std::uint64_t values =
            ptx::wgmma_descriptor(shared + S::kRing + S::position_of(2 * group + i) * kSlabBytes);
#pragma unroll
        for (int b = 0; b < Blocks; ++b)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<Half, true>(tile[i], values + b * (S::kSlabs * kSlabBytes / 16) + 128 * k,
                                             weights + b * (N * 128 / 16) + 2 * k, b + k > 0);
    }
    ptx::wgmma_commit();
}

}  // namespace tokamak::mla::cuda::flat_decode
