// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the direct decode kernel. A thread block is one or two groups of eight warps, and four
// warps that bring their rows. The groups take every other 32 rows of the block's share and meet at the end only, so
// that one's barriers and softmax hide behind the other's products.
#pragma once

#include "mla/cuda/sparse_decode/params.h"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::direct_decode {

using namespace sparse_decode;

inline constexpr int kGroupWarps = 8;
inline constexpr int kGroupThreads = 32 * kGroupWarps;
inline constexpr int kRows = 32;  ///< that a group scores together
inline constexpr int kProducerWarps = 4;
inline constexpr int kShares = 4;  ///< warps that score the same rows, a quarter of the row each
inline constexpr int kMostSplits = 16;

/// Named barriers.
enum : int { kGroupBarrier = 1 /* and 2 */, kSumsBarrier = 3, kJoinBarrier = 4 };

/// A row as it lies in shared memory: as in memory, the scales of rows of 512 behind it. The stride is an odd number
/// of 16 bytes, which fragments.cuh counts on.
template <int Dim>
struct RawRow;
template <>
struct RawRow<576> {
    static constexpr int kCopyBytes = 656;
    static constexpr int kStride = 656;
    static constexpr int kScaleByte = 512;
    static constexpr int kRotaryByte = 528;
    static constexpr int kScales = 4;
    static constexpr int kVersions = 4;  ///< of the weights: one for each scale
};
template <>
struct RawRow<512> {
    static constexpr int kCopyBytes = 576;
    static constexpr int kStride = 592;
    static constexpr int kScaleByte = 576;
    static constexpr int kRotaryByte = 448;
    static constexpr int kScales = 7;
    static constexpr int kVersions = 8;  ///< the last one without a scale, in bf16, for the rotary values
};

template <int Dim, int N, int Groups>
struct Shape {
    static constexpr int kHeadTiles = N / 16;
    static constexpr int kMathThreads = Groups * kGroupThreads;
    static constexpr int kThreads = kMathThreads + 32 * kProducerWarps;
    static constexpr int kWarpRows = Groups * kRows / kProducerWarps;  ///< of a block, that a warp brings
    static constexpr int kRowWarps = kProducerWarps / Groups;          ///< that bring the rows of a group
    static constexpr int kStages = Groups == 2 ? 4 : 6;
    static constexpr int kStageBytes = kRows * RawRow<Dim>::kStride;
    static constexpr int kTileBytes = kRows * 16 * 4;  ///< scores of sixteen heads
    static constexpr int kVersionBytes = kHeadTiles * kRows * 16 * 2;

    // Of a group.
    static constexpr std::uint32_t kRaw = 0;
    static constexpr std::uint32_t kPartial = kStages * kStageBytes;
    static constexpr std::uint32_t kWeights = kPartial + kShares * kHeadTiles * kTileBytes;
    static constexpr std::uint32_t kGroupBytes = kWeights + RawRow<Dim>::kVersions * kVersionBytes;

    // Of the block.
    static constexpr std::uint32_t kLanding = Groups * kGroupBytes;
    static constexpr std::uint32_t kControl = kLanding + N * 512 * 4;
};

template <int Dim, int N, int Groups>
struct DirectControl {
    static constexpr int kStages = Shape<Dim, N, Groups>::kStages;
    std::uint64_t full[Groups][kStages];             ///< rows are there
    std::uint64_t empty[Groups][kStages];            ///< and no longer read: an arrival of each warp of the group
    std::uint64_t told;                              ///< sums of the other splits
    std::uint64_t landed;                            ///< their outputs
    alignas(16) float bias[Groups][kStages][kRows];  ///< 0, or minus infinity for a masked row
    float partial[Groups][4][N];                     ///< for reductions over the rows of a block
    float correction[Groups][N];                     ///< factor of older sums
    alignas(16) float4 of_group[Groups][N];          ///< x reference, y sum, z largest score
    alignas(16) float4 sums[kMostSplits][N];         ///< the same of the splits
};

template <int Dim, int N, int Groups>
inline constexpr std::uint32_t kDirectBytes = Shape<Dim, N, Groups>::kControl + sizeof(DirectControl<Dim, N, Groups>);

}  // namespace tokamak::mla::cuda::direct_decode
