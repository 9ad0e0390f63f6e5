// SPDX-License-Identifier: Apache-2.0
// The weights' side of the ring: a stage holds 64 or 128 columns of a unit's strips and of its rows. One warp copies
// weights, others bring rows, the rest consume; the ring runs on across units, experts and phases.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/grouped/dealt_units.cuh"
#include "moe/cuda/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Named barrier of the feeding warps: what the first rows of a pass wait for should not be the first weights.
inline constexpr int kRowsAhead = 2;

/// Whether the gathering warps count units (RowGather), otherwise the consumers do.
template <class Shape>
__device__ __forceinline__ bool counts_lazily(const GroupedArgs& args, bool down) {
    return Shape::chunks(down ? args.down : args.gate_up) > args.stages;
}

/// Whether tokens are combined under the last units. It takes counts of the down phase's units, and where these are
/// short, that costs more than it brings.
template <class Shape>
__device__ __forceinline__ bool combines_early(const GroupedArgs& args) {
    return Shape::kDealt && counts_lazily<Shape>(args, true);
}

/// A warp's part of the weights of a phase, stage by stage. A whole warp runs it: a lone lane's copies take so many
/// instructions among busy warps that weights arrive late (docs/kernels/moe_grouped.md).
template <class Shape>
class WeightStream {
    using Weights = typename Shape::Weights;

  public:
    /// `dealer`: of the warp that asks for units.
    __device__ WeightStream(const RowLists& lists, const GroupedArgs& args, bool down, int warp, int& turn,
                            UnitDealer* dealer)
        : walk_(lists, args, down, turn),
          dealer_(dealer),
          matrix_(down ? args.down : args.gate_up),
          chunks_(Shape::chunks(matrix_)),
          chunk_(chunks_),
          policy_(ptx::copy_policy(lists.single_tiles())),
          warp_(warp) {}

    /// Issues up to `most` stages.
    __device__ void issue(const StageRing<Shape>& ring, RingPlace& place, int most = 0x7FFFFFFF) {
        constexpr int stage_tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        for (; most > 0; --most) {
            if (chunk_ == chunks_) {
                if constexpr (Shape::kDealt)
                    if (dealer_ != nullptr) dealer_->deal(walk_.turn());
                if (!walk_.next(unit_)) return;
                chunk_ = 0;
                source_ = matrix_.packed + unit_.tile.expert * matrix_.expert_bytes +
                          (unit_.strip + warp_) * matrix_.strip_bytes;
                strips_ = (unit_.strips - warp_ + Shape::kWeightWarps - 1) / Shape::kWeightWarps;
            }
            if constexpr (Shape::kDealt)
                if (dealer_ != nullptr && chunk_ == max(0, chunks_ - kAskAhead)) dealer_->ask();
            const int tiles = min(stage_tiles, matrix_.tiles - chunk_ * stage_tiles);
            const std::uint32_t bytes = static_cast<std::uint32_t>(tiles) * Weights::kTileBytes;
            // Where consumers multiply whole stages a lone tile comes twice; its columns beyond the end meet zeros.
            const std::uint32_t copies = Weights::kLoadsAhead && !Weights::kHalfStages && tiles < stage_tiles ? 2 : 1;
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            constexpr std::uint32_t scale_bytes = Weights::kStripScales ? kStripScaleBytes : 0;
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(&ring.full[place.slot],
                                           (bytes * copies + scale_bytes) * static_cast<std::uint32_t>(strips_));
                for (std::uint32_t copy = 0; copy < copies; ++copy)
                    copy_strips(ring.stage(place.slot) + copy * bytes, bytes, &ring.full[place.slot]);
            }
            source_ += bytes;
            ++chunk_;
            place.advance(ring.stages);
        }
    }

  private:
    /// The scales of tile t lie behind the tiles, those of tiles 2n and 2n + 1 at 16n.
    __device__ __forceinline__ void copy_strips(std::uint8_t* stage, std::uint32_t bytes, std::uint64_t* full) const {
        const std::uint8_t* from = source_;
#pragma unroll
        for (int i = 0; i < Shape::kStrips / Shape::kWeightWarps; ++i) {
            if (i >= strips_) break;
            const int strip = i * Shape::kWeightWarps + warp_;
            ptx::bulk_copy(stage + strip * Weights::kStripStageBytes, from, bytes, full, policy_);
            if constexpr (Weights::kStripScales)
                ptx::bulk_copy(stage + Shape::kStripScalesOffset + strip * kStripScaleBytes,
                               from + static_cast<std::int64_t>(matrix_.tiles - chunk_) * Weights::kTileBytes +
                                   chunk_ / 2 * kStripScaleBytes,
                               kStripScaleBytes, full);
            from += Shape::kWeightWarps * matrix_.strip_bytes;
        }
    }

    RoleWalk<Shape> walk_;
    UnitDealer* dealer_;
    const DecodeMatrix& matrix_;
    int chunks_;
    int chunk_;
    std::uint64_t policy_;  ///< where no other unit reads the same weights, they give way to the rows in the L2
    int warp_;              ///< among the weights' warps, which take a unit's strips in turn
    int strips_ = 0;        ///< of this warp in the unit
    Unit unit_{};
    const std::uint8_t* source_ = nullptr;
};

}  // namespace tokamak::moe::cuda
