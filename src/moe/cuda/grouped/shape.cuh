// SPDX-License-Identifier: Apache-2.0
// The shape of a grouped kernel at compile time.
#pragma once

#include "moe/cuda/grouped/row_lists.cuh"
#include "moe/cuda/grouped/weights.cuh"

namespace tokamak::moe::cuda {

/// Scales of two tiles of a strip: what a bulk copy takes at least.
inline constexpr int kStripScaleBytes = 16;

/// Shape of a kernel: strips of a unit, and what a stage holds.
template <class Weights_, int Warpgroups_, int StripsEach_, int TileRows_ = kMostTileRows, bool Converted_ = false>
struct GroupedShape {
    using Weights = Weights_;
    static constexpr int kWarpgroups = Warpgroups_;
    static constexpr int kStripsEach = StripsEach_;  ///< most of a warpgroup
    static constexpr int kStrips = kWarpgroups * kStripsEach;
    static constexpr int kConsumerWarps = kWarpgroups * 4;
    /// Weights are converted in registers and multiplied by wgmma.
    static constexpr bool kConverted = Converted_;
    /// That issue the copies of weights: where multiplying takes every issue slot, one scheduler should not have all
    /// of them.
    static constexpr int kWeightWarps = Weights::kLoadsAhead && !Converted_ ? 2 : 1;
    static constexpr int kThreads = (kConsumerWarps + kWeightWarps + kGatherWarps) * 32;
    /// Of a stage: one of each weights' warp and of each gathering thread.
    static constexpr int kFullArrivals = kWeightWarps + kGatherWarps * 32;
    static constexpr bool kGridLists = TileRows_ > 64;  ///< many rows: the grid makes one list in the workspace
    static constexpr int kTileRows = TileRows_;
    static constexpr int kRowBlockBytes = kTileRows * 128;  ///< rows of 128 bytes, swizzled
    static constexpr bool kRowScales = Weights::kForm == RowForm::quantized;
    static constexpr int kRowBlocks = kRowScales ? 1 : Weights::kStageBlocks;
    static constexpr int kRowsOffset = (kStrips * Weights::kStripStageBytes + 1023) / 1024 * 1024;
    static constexpr int kStripScalesOffset = kRowsOffset + kRowBlocks * kRowBlockBytes;
    static constexpr int kRowScalesOffset = kStripScalesOffset + kStrips * kStripScaleBytes;
    static constexpr int kStageBytes = kStripScalesOffset + (Weights::kStripScales ? 1024 : 0);
    static_assert(!Weights::kStripScales || kRowScalesOffset + kTileRows * 4 <= kStageBytes);
    /// Consumers of converted weights hold two stages: the one that is being multiplied and the one that is loaded.
    static constexpr int kMostStages = kConverted ? 6 : 4;
    static constexpr int kVectors = kRowBlocks * 8;  ///< of 16 bytes in a stage's row

    /// Strips that a gate/up unit has together: those of a group of 128 columns of the intermediate, which share a
    /// scale.
    static constexpr int kStepStrips = kRowScales ? 4 : 1;
    static_assert(kStrips % kStepStrips == 0);
    /// Rows are brought into the form of the format before each phase; the first one leaves f32 rows.
    static constexpr bool kPrepares = Weights::kForm != RowForm::natural;
    /// Row tiles tell when their rows of the intermediate are there; otherwise the phases meet at a barrier of the
    /// grid.
    static constexpr bool kAnnounces = kRowScales || kConverted || Weights::kAnnounces;
    static constexpr bool kDealt = Weights::kLoadsAhead;  ///< CTAs ask for units (dealt_units.cuh)

    __device__ static int chunks(const DecodeMatrix& matrix) {
        constexpr int tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        return (matrix.tiles + tiles - 1) / tiles;
    }
};

}  // namespace tokamak::moe::cuda
