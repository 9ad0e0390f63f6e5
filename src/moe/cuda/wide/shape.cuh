// SPDX-License-Identifier: Apache-2.0
// The shape of a wide kernel at compile time.
#pragma once

#include "moe/cuda/wide/wide_args.h"

namespace tokamak::moe::cuda {

/// Scales of two tiles of a strip: what a bulk copy takes at least.
inline constexpr int kWideScaleBytes = 16;

/// CTAs that multiply: the first ones of the grid.
__device__ __forceinline__ int wide_workers(const WideArgs& args) {
    return static_cast<int>(gridDim.x) - args.converters;
}

__device__ __forceinline__ bool wide_works(const WideArgs& args) {
    return static_cast<int>(blockIdx.x) < wide_workers(args);
}

/// Combines that a kernel has: the one that the arguments ask for, or one. With both the instructions of fp8_block are
/// nearly twice as many and it takes 17% longer at 512 rows of an expert.
enum class WideCombines { asked, rows, half_rows, atomic };

/// Two consumer warpgroups with up to two strips of 64 weight rows each, or three with one each, times `LeastRows` to
/// `MostRows` rows of one expert in steps of `StepRows`; and one warpgroup that feeds them. Up to 64 rows converting
/// weights is a chain of short waits, which a third warp of a scheduler fills.
template <class Weights_, int LeastRows_, int StepRows_, int MostRows_, WideCombines Combines_ = WideCombines::asked,
          int Warpgroups_ = 2, int StripsEach_ = Warpgroups_ == 2 ? 2 : 1>
struct WideShape {
    using Weights = Weights_;
    static constexpr int kWarpgroups = Warpgroups_;
    static constexpr int kStripsEach = StripsEach_;
    static constexpr int kLeastRows = LeastRows_;
    static constexpr int kStepRows = StepRows_;
    /// Rows that a tile may have behind its 128th (multiply_tall.cuh).
    static constexpr int kExtraRows = Weights::kQuantized ? 16 : 0;
    static constexpr int kTallRows = MostRows_;
    static constexpr int kMostRows = kTallRows + kExtraRows;
    static constexpr bool kPairs = Weights::kFromShared;  ///< CTAs share what they copy (WidePair)
    /// Rows of `out` with one result are not added to.
    static constexpr bool kStoresAlone = Weights::kFromShared || Weights::kRounded;
    /// Quantised: tiles of more rows have them as the first operand, 128 of them.
    static constexpr int kNarrowRows = Weights::kQuantized ? 80 : kMostRows;
    /// Converted weights are multiplied by whole stages, with a set of registers for each strip and block of them; more
    /// rows leave none for that.
    static constexpr bool kWholeStages = kMostRows <= 96;
    /// Up to 64 rows a stage is two parts of 128 columns (multiply_parts.cuh).
    static constexpr bool kParts = kMostRows <= 64;
    /// Rows of x are prepared for so many units of each CTA before the first is multiplied, in halves: up to 64 rows a
    /// unit is long enough for idle warps to prepare the others meanwhile.
    static constexpr int kFirstHalfUnits = kParts ? 2 : 3;
    static_assert(kMostRows % kStepRows == 0 && kLeastRows % kStepRows == 0);
    static constexpr int kStrips = kWarpgroups * kStripsEach;
    /// What ends of units need is brought into shared memory (unit_end.cuh).
    static constexpr bool kBringsEnds = kParts && !Weights::kRounded && Combines_ == WideCombines::rows;
    /// Units have all strips but the last one of a row tile, where a warpgroup may be without: with five strips they
    /// take the time of six.
    static constexpr bool kWholeUnits = kStrips == 6;
    static constexpr int kConsumerWarps = kWarpgroups * 4;
    /// Sums and operands of six strips leave no registers for what a unit's beginning and end need of the thread's
    /// place: kept in local memory that cost 3% (gpt-oss-120b, 1024 tokens).
    static constexpr bool kFindsPlace = Weights::kQuantized || kStrips == 6;
    static constexpr int kThreads = (kConsumerWarps + 4) * 32;
    static constexpr int kFullArrivals = 2;  ///< of a stage: one for the weights, one for the rows
    /// Registers of a thread after the roles have parted: together no more than before. What the consumers do not need
    /// goes to the others: with 40 the warps that prepare rows of bf16 had a hundred words in local memory, with 88
    /// none (1.2 to 3.4% of the layer). Three warpgroups: with 136 the last combine had some there, with 152 fewer
    /// (1.5%). Up to 64 rows of converted weights 0.5%; more rows need all.
    static constexpr bool kPlain = Weights::kFromShared && !Weights::kQuantized;
    static constexpr int kConsumerRegisters = kWarpgroups == 3 ? 152 : kPlain ? 208 : kMostRows <= 64 ? 224 : 232;
    static constexpr int kProducerRegisters = kWarpgroups == 3 ? 56 : kPlain ? 88 : kMostRows <= 64 ? 56 : 40;
    static constexpr int kBlocks = Weights::kStageBlocks;  ///< of 64 columns in a stage
    static constexpr bool kQuantized = Weights::kQuantized;
    static constexpr bool kConverted = Weights::kConverted;
    static constexpr bool kRounded = Weights::kRounded;
    static constexpr bool kScaledRows = kQuantized || kRounded;  ///< the consumers of a unit find scales together
    static constexpr bool kHalfResults = kQuantized || Combines_ == WideCombines::half_rows;  ///< in bf16, not f32
    static constexpr int kRowBlockBytes = kMostRows * 128;
    static constexpr int kRowsOffset = (kStrips * Weights::kStripStageBytes + 1023) / 1024 * 1024;
    /// Quantised: the scales of the rows lie behind their codes, however many there are; then those of the strips.
    static constexpr int kStripScalesOffset =
        kRowsOffset + (kQuantized ? kRowBlockBytes + kMostRows * 4 : kBlocks * kRowBlockBytes);
    static constexpr int kStageBytes =
        (kStripScalesOffset + (kQuantized ? kStrips * kWideScaleBytes : 0) + 1023) / 1024 * 1024;
    /// Strips that a gate/up unit has together: those of 128 columns of the intermediate, which share a scale.
    static constexpr int kGroupStrips = kScaledRows ? kStrips : 1;
    static_assert(!kScaledRows || (kStrips == 4 && kStripsEach == 2));

    /// Whether results are added to `out`.
    __device__ static bool atomic(const WideArgs& args) {
        if constexpr (Combines_ == WideCombines::asked)
            return args.atomic;
        else
            return Combines_ == WideCombines::atomic;
    }
    __device__ static int chunks(const DecodeMatrix& matrix) {
        constexpr int tiles = kBlocks / Weights::kTileBlocks;
        return (matrix.tiles + tiles - 1) / tiles;
    }
};

}  // namespace tokamak::moe::cuda
