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
inline constexpr int kMostLanding = 36;  ///< parts, own ones included: those of 5, 6 or 9 splits

/// Named barriers.
enum : int { kWeighBarrier = 1, kSharesBarrier = 2 /* and one for each 16 rows */ };

/// A share is at most so many blocks of 64 rows. Slabs are in the order of their dimensions.
template <int Dim, int N, bool Half, int Blocks>
struct Shape {
    static constexpr int kSlabs = Slabs<Dim>::kCount;
    static constexpr int kRows = kRowBlock * Blocks;
    static constexpr int kRowWarps = 4 * Blocks;        ///< warps that have different rows, 16 each, of the scores
    static constexpr int kShares = kWarps / kRowWarps;  ///< warps that score the same rows, each some of the slabs
    static constexpr int kPairs = N / 8;                ///< column pairs of a thread in a 64 x N fragment
    /// Rotary slabs that are no values; fp8 rows leave them in registers.
    static constexpr int kRotarySlabs = Dim == 576 && !Half ? Blocks : 0;

    // The parts of other splits land where the queries were, own ones wait where rotary slabs and scores were.
    static constexpr std::uint32_t kQueries = 0;
    static constexpr std::uint32_t kRing = kMostLanding * kPartBytes<N>;
    static constexpr std::uint32_t kWeights = kRing + Blocks * kValueTiles * kSlabBytes;
    static constexpr std::uint32_t kStaged = kWeights + Blocks * N * 128;
    static constexpr std::uint32_t kScores = kStaged + kRotarySlabs * kSlabBytes;
    static constexpr std::uint32_t kScoresEnd = kScores + (kShares - 1) * kRows * N * 4;
    static constexpr std::uint32_t kStagedEnd = kStaged + kParts * kPartBytes<N>;
    static constexpr std::uint32_t kControl = kScoresEnd > kStagedEnd ? kScoresEnd : kStagedEnd;
    static_assert(N * Dim * 2 <= kRing);

    /// Where a slab of a block of rows is.
    [[nodiscard]] __device__ static constexpr std::uint32_t slab(int block, int slab) {
        if (kRotarySlabs > 0 && slab == kValueTiles) return kStaged + block * kSlabBytes;
        return kRing + (block * kValueTiles + slab) * kSlabBytes;
    }
};

template <int N, int Blocks>
struct FlatControl {
    std::uint64_t told;    ///< sums of the other splits
    std::uint64_t landed;  ///< output parts of the other splits
    int exponent[kRowBlock * Blocks];
    alignas(16) float partial[4 * Blocks][N];  ///< per warp, for reductions over rows
    alignas(16) float reference[N];
    float top[N];                             ///< largest scores, if asked for
    float scale[N];                           ///< of scores, as exponents of two
    alignas(16) float4 sums[kMostSplits][N];  ///< x reference, y sum, z largest score
};

template <int Dim, int N, bool Half, int Blocks>
inline constexpr std::uint32_t kFlatBytes = Shape<Dim, N, Half, Blocks>::kControl + sizeof(FlatControl<N, Blocks>);

}  // namespace tokamak::mla::cuda::flat_decode
