// SPDX-License-Identifier: Apache-2.0
// Sizes and shared memory of the form that holds most queries in the registers of the scoring warpgroup, which leaves
// room for rows of nearly three blocks.
#pragma once

#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::held_decode {

using namespace sparse_decode;

inline constexpr int kHeads = 64;
inline constexpr int kHeldThreads = 512;  ///< one warpgroup scores, two add values, one brings rows
inline constexpr int kHeldSlabs = 4;      ///< of the queries, in registers
inline constexpr int kPerWarp = 16;       ///< rows of a block that a producer warp brings
inline constexpr int kTiles = 4;          ///< output tiles of 128 dimensions: two slabs of rows
inline constexpr int kTileStages = 10;    ///< of the ring
inline constexpr int kFreeStages = kTileStages - kHeldSlabs / 2;  ///< in which no queries wait
inline constexpr int kRotaryStages = 2;
inline constexpr std::uint32_t kTileBytes = 2 * kSlabBytes;

/// Named barriers.
enum : int { kHeldStart = 1, kHeldMath = 2, kHeldScore = 3 };

/// Rows of 576: eight slabs of values, then the rotary one.
struct HeldShape {
    static constexpr int kSlabs = 9;
    static constexpr std::uint32_t kTilesAt = 0;
    static constexpr std::uint32_t kRotary = kTilesAt + kTileStages * kTileBytes;
    static constexpr std::uint32_t kWeights = kRotary + kRotaryStages * kSlabBytes;
    static constexpr std::uint32_t kQueries = kWeights + kSlabBytes;  ///< those that are not held
    static constexpr std::uint32_t kControl = kQueries + (kSlabs - kHeldSlabs) * kHeads * 128;
};

struct HeldControl {
    std::uint64_t full[kTileStages], empty[kTileStages];
    std::uint64_t rotary_full[kRotaryStages], rotary_empty[kRotaryStages];
    std::uint64_t weights_full, weights_empty;
    std::uint16_t valid[8][4];             ///< rows of a block that take part, by the warp that brings them
    alignas(16) float correction[kHeads];  ///< factor of older sums
    float sum[kHeads];
    int corrected;
};
inline constexpr std::uint32_t kHeldBytes = HeldShape::kControl + sizeof(HeldControl);
static_assert(kHeldBytes <= 232448);

}  // namespace tokamak::mla::cuda::held_decode
