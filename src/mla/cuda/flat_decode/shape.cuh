// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the flat decode kernel.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"

namespace tokamak::mla::cuda::flat_decode {

using namespace sparse_decode;

inline constexpr int kWarps = 16;
inline constexpr int kFlatThreads = 32 * kWarps;
inline constexpr int kMostSplits = 16;

/// Named barriers.
enum : int { kWeighBarrier = 1, kSumsBarrier = 2 };

/// An arrival at a named barrier without the wait.
__device__ __forceinline__ void named_barrier_arrive(int number, int threads) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/// A share is at most so many blocks of 64 rows.
template <int Dim, int N, int Blocks>
struct Shape {
    static constexpr int kSlabs = Slabs<Dim>::kCount;
    static constexpr int kRows = kRowBlock * Blocks;
    static constexpr int kOwnRows = 4 * Blocks;  ///< of a warp: four of every block
    static constexpr int kShares = 4 / Blocks;   ///< warpgroups that score one block, each some of the slabs
    static constexpr int kPairs = N / 8;         ///< column pairs of a thread in a 64 x N fragment

    // The parts of other splits land where the queries were.
    static constexpr std::uint32_t kQueries = 0;
    static constexpr std::uint32_t kRing = N * Dim * 2;
    static constexpr std::uint32_t kWeights = kRing + Blocks * kSlabs * kSlabBytes;
    static constexpr std::uint32_t kScores = kWeights + Blocks * N * 128;
    static constexpr std::uint32_t kControl = kScores + (kShares - 1) * Blocks * kRowBlock * N * 4;
    static_assert(kParts * kPartBytes<N> <= kRing);

    /// Position of the slab with output tile `tile`.
    [[nodiscard]] __device__ static constexpr int position_of(int tile) { return tile + 1 == kSlabs ? 0 : tile + 1; }
};

template <int N, int Blocks>
struct FlatControl {
    std::uint64_t told;                            ///< sums of the other splits
    std::uint64_t landed;                          ///< output parts of the other splits
    alignas(16) uint4 ratios[kRowBlock * Blocks];  ///< eight f16 numbers of a row
    int exponent[kRowBlock * Blocks];
    alignas(16) float partial[4 * Blocks][N];  ///< per warp, for reductions over rows
    alignas(16) float reference[N];
    float top[N];                             ///< largest scores, if asked for
    float scale[N];                           ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][N];  ///< x reference, y sum, z largest score
};

template <int Dim, int N, int Blocks>
inline constexpr std::uint32_t kFlatBytes = Shape<Dim, N, Blocks>::kControl + sizeof(FlatControl<N, Blocks>);

}  // namespace tokamak::mla::cuda::flat_decode
