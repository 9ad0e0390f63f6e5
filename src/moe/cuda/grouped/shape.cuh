// SPDX-License-Identifier: Apache-2.0
// The shape of a grouped kernel at compile time.
#pragma once

#include "moe/cuda/grouped/row_lists.cuh"
#include "moe/cuda/grouped/weights.cuh"

namespace tokamak::moe::cuda {

/// Scales of two tiles of a strip: what a bulk copy takes at least.
inline constexpr int kStripScaleBytes = 16;

/// Shape of a kernel: strips of a unit, and what a stage holds.
template <class Weights_, int Warpgroups_, int StripsEach_>
struct GroupedShape {
    using Weights = Weights_;
    static constexpr int kWarpgroups = Warpgroups_;
    static constexpr int kStripsEach = StripsEach_;  ///< most of a warpgroup
    static constexpr int kStrips = kWarpgroups * kStripsEach;
    static constexpr int kConsumerWarps = kWarpgroups * 4;
    static constexpr int kThreads = (kConsumerWarps + kWeightWarps + kGatherWarps) * 32;
    static constexpr int kRowBlockBytes = kMostTileRows * 128;  ///< rows of 64 columns, swizzled by 128 bytes
    static constexpr int kRowsOffset = (kStrips * Weights::kStripStageBytes + 1023) / 1024 * 1024;
    static constexpr int kStripScalesOffset = kRowsOffset + Weights::kStageBlocks * kRowBlockBytes;
    static constexpr int kRowScalesOffset = kStripScalesOffset + kStrips * kStripScaleBytes;
    static constexpr int kStageBytes = kStripScalesOffset + (Weights::kStripScales ? 1024 : 0);
    static_assert(!Weights::kStripScales || kRowScalesOffset + kMostTileRows * 4 <= kStageBytes);
    static constexpr int kVectors = Weights::kStageBlocks * 8;  ///< of 16 bytes in a stage's row

    static constexpr bool kRowScales = Weights::kForm == RowForm::quantized;
    /// Rows are brought into the form of the format before each phase; the first one leaves f32 rows.
    static constexpr bool kPrepares = Weights::kForm != RowForm::natural;

    __device__ static int chunks(const DecodeMatrix& matrix) {
        constexpr int tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        return (matrix.tiles + tiles - 1) / tiles;
    }
};

}  // namespace tokamak::moe::cuda
