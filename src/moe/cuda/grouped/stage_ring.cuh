// SPDX-License-Identifier: Apache-2.0
// The weights' side of the ring: a stage holds 64 or 128 columns of a unit's strips and of its rows. One warp copies
// weights, others bring rows, the rest consume; the ring runs on across units, experts and phases.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/copy_by_address.cuh"
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

/// A feeding warp's way through the ring, as shared addresses. Its place is eight times its slot.
template <class Shape>
class FeedWalk {
  public:
    __device__ __forceinline__ FeedWalk(const StageRing<Shape>& ring, const RingPlace& place)
        : full_(ptx::shared_address(ring.full)),
          end_(static_cast<std::uint32_t>(ring.stages) * 8),
          place_(static_cast<std::uint32_t>(place.slot) * 8),
          parity_(place.parity ^ 1U) {}

    /// Until the stage is free.
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + end_ + place_, parity_); }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t full() const { return full_ + place_; }
    /// An address in the first stage becomes one in this stage.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t in_stage(std::uint32_t first) const {
        return first + place_ * static_cast<std::uint32_t>(Shape::kStageBytes / 8);
    }
    /// By a whole warp, when its copies so far are complete: the address is in a uniform register, not looped over.
    __device__ __forceinline__ void arrive_copied() const {
        asm volatile(
            "cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(__shfl_sync(0xFFFFFFFFU, full_ + place_, 0))
            : "memory");
    }
    __device__ __forceinline__ void advance() { advance_place(place_, parity_, end_); }
    __device__ __forceinline__ void store(RingPlace& place) const {
        place.slot = static_cast<int>(place_ / 8);
        place.parity = parity_ ^ 1U;
    }

  private:
    std::uint32_t full_;
    std::uint32_t end_;
    std::uint32_t place_;
    std::uint32_t parity_;
};

/// A warp's part of the weights of a phase, stage by stage. A whole warp runs it: a lone lane's copies take so many
/// instructions among busy warps that weights arrive late (docs/kernels/moe_grouped.md).
template <class Shape>
class WeightStream {
    using Weights = typename Shape::Weights;

  public:
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
    __device__ __forceinline__ void issue(const StageRing<Shape>& ring, RingPlace& place, int most = 0x7FFFFFFF) {
        if constexpr (Shape::kDealt)
            issue_pieces(ring, place, most);
        else
            issue_stages(ring, place, most);
    }

  private:
    __device__ __forceinline__ bool next_unit() {
        if (!walk_.next(unit_)) return false;
        chunk_ = 0;
        source_ =
            matrix_.packed + unit_.tile.expert * matrix_.expert_bytes + (unit_.strip + warp_) * matrix_.strip_bytes;
        strips_ = (unit_.strips - warp_ + Shape::kWeightWarps - 1) / Shape::kWeightWarps;
        return true;
    }
    __device__ __forceinline__ void issue_stages(const StageRing<Shape>& ring, RingPlace& place, int most) {
        constexpr int stage_tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        for (; most > 0; --most) {
            if (chunk_ == chunks_ && !next_unit()) return;
            const int tiles = min(stage_tiles, matrix_.tiles - chunk_ * stage_tiles);
            const std::uint32_t bytes = static_cast<std::uint32_t>(tiles) * Weights::kTileBytes;
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            constexpr std::uint32_t scale_bytes = Weights::kStripScales ? kStripScaleBytes : 0;
            if (ptx::elect_lane()) {
                ptx::barrier_arrive_expect(&ring.full[place.slot],
                                           (bytes + scale_bytes) * static_cast<std::uint32_t>(strips_));
                copy_strips(ring.stage(place.slot), bytes, &ring.full[place.slot]);
            }
            source_ += bytes;
            ++chunk_;
            place.advance(ring.stages);
        }
    }
    /// In pieces that end where a unit ends or the next one is to be asked for, and few instructions a stage:
    /// they are issued beside those of the consumers.
    __device__ __forceinline__ void issue_pieces(const StageRing<Shape>& ring, RingPlace& place, int most) {
        constexpr int stage_tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        FeedWalk<Shape> feed(ring, place);
        const std::uint32_t memory =
            ptx::shared_address(ring.memory) + static_cast<std::uint32_t>(warp_ * Weights::kStripStageBytes);
        const int whole = matrix_.tiles / stage_tiles;
        const int ask_at = max(0, chunks_ - kAskAhead);
        while (most > 0) {
            if (chunk_ == chunks_) {
                dealer_->deal(walk_.turn());
                if (!next_unit()) break;
            }
            if (chunk_ == ask_at) dealer_->ask();
            const int count = min(most, (chunk_ < ask_at ? min(ask_at, whole) : whole) - chunk_);
            constexpr std::uint32_t stage_bytes = Weights::kStripStageBytes;
#pragma unroll 1
            for (int i = 0; i < count; ++i) copy_stage<stage_bytes>(feed, memory, stage_bytes);
            if (count <= 0)
                copy_stage<Weights::kTileBytes>(feed, memory, Weights::kHalfStages ? Weights::kTileBytes : stage_bytes);
            const int done = max(count, 1);
            chunk_ += done;
            most -= done;
        }
        feed.store(place);
    }
    /// One stage of this warp's strips. Where consumers multiply whole stages a lone tile comes twice; its columns
    /// beyond the end meet zeros.
    template <std::uint32_t Bytes>
    __device__ __forceinline__ void copy_stage(FeedWalk<Shape>& feed, std::uint32_t memory, std::uint32_t expected) {
        feed.await();
        if (ptx::elect_lane()) {
            ptx::barrier_arrive_expect(feed.full(), expected * static_cast<std::uint32_t>(strips_));
            copy_strips(feed.in_stage(memory), Bytes, feed.full());
            if (Bytes < expected) copy_strips(feed.in_stage(memory) + Bytes, Bytes, feed.full());
        }
        source_ += Bytes;
        feed.advance();
    }
    /// Of one stage from its first strip of this warp on.
    __device__ __forceinline__ void copy_strips(std::uint32_t to, std::uint32_t bytes, std::uint32_t full) const {
        const std::uint8_t* from = source_;
#pragma unroll
        for (int i = 0; i < Shape::kStrips / Shape::kWeightWarps; ++i) {
            if (i >= strips_) break;
            ptx::bulk_copy(to + static_cast<std::uint32_t>(i * Shape::kWeightWarps * Weights::kStripStageBytes), from,
                           bytes, full, policy_);
            from += Shape::kWeightWarps * matrix_.strip_bytes;
        }
    }
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
    UnitDealer* dealer_;  ///< where units are asked for
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
