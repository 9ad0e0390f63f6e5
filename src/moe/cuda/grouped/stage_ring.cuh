// SPDX-License-Identifier: Apache-2.0
// The ring of stages: a stage holds 64 or 128 columns of a unit's strips and of its rows. One warp copies weights,
// others gather rows, the rest consume; the ring runs on across units, experts and phases.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/grouped/units.cuh"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

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
    static constexpr int kStageBytes = kRowsOffset + Weights::kStageBlocks * kRowBlockBytes;
    static constexpr int kVectors = Weights::kStageBlocks * 8;  ///< of 16 bytes in a stage's row

    __device__ static int chunks(const DecodeMatrix& matrix) {
        constexpr int tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        return (matrix.tiles + tiles - 1) / tiles;
    }
};

/// Slot and parity of the stage that a role is at.
struct RingPlace {
    int slot = 0;
    std::uint32_t parity = 0;
    __device__ void advance(int stages) {
        if (++slot == stages) {
            slot = 0;
            parity ^= 1U;
        }
    }
};

template <class Shape>
struct StageRing {
    std::uint8_t* memory;
    std::uint64_t* full;   ///< one arrival for the weights, one of each gathering thread
    std::uint64_t* empty;  ///< one arrival of each consumer warp
    int stages;

    __device__ StageRing(std::uint8_t* shared, const GroupedArgs& args)
        : memory(shared),
          full(reinterpret_cast<std::uint64_t*>(shared + args.lists.barriers)),
          empty(full + args.stages),
          stages(args.stages) {}
    __device__ void initialise() const {
        for (int slot = 0; slot < stages; ++slot) {
            ptx::barrier_init(&full[slot], 1 + kGatherWarps * 32);
            ptx::barrier_init(&empty[slot], Shape::kConsumerWarps);
        }
        ptx::fence_barrier_init();
    }
    [[nodiscard]] __device__ std::uint8_t* stage(int slot) const { return memory + slot * Shape::kStageBytes; }
};

/// Copies the weights of a phase, stage by stage. One lane runs it.
template <class Shape>
class WeightStream {
    using Weights = typename Shape::Weights;

  public:
    __device__ WeightStream(const RowLists& lists, const DecodeMatrix& matrix)
        : walk_(lists, matrix, Shape::kStrips), matrix_(matrix), chunks_(Shape::chunks(matrix)), chunk_(chunks_) {}

    /// Issues up to `most` stages.
    __device__ void issue(const StageRing<Shape>& ring, RingPlace& place, int most) {
        constexpr int stage_tiles = Weights::kStageBlocks / Weights::kTileBlocks;
        for (; most > 0; --most) {
            if (chunk_ == chunks_) {
                if (!walk_.next(unit_)) return;
                chunk_ = 0;
                strip_bytes_ = Weights::kTileBytes * matrix_.tiles;
                source_ = matrix_.packed + unit_.tile.expert * matrix_.expert_bytes +
                          static_cast<std::int64_t>(unit_.strip) * strip_bytes_;
            }
            const int tiles = min(stage_tiles, matrix_.tiles - chunk_ * stage_tiles);
            const std::uint32_t bytes = static_cast<std::uint32_t>(tiles) * Weights::kTileBytes;
            ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
            ptx::barrier_arrive_expect(&ring.full[place.slot], bytes * static_cast<std::uint32_t>(unit_.strips));
            std::uint8_t* to = ring.stage(place.slot);
            const std::uint8_t* from = source_;
            for (int strip = 0; strip < unit_.strips; ++strip) {
                ptx::bulk_copy(to, from, bytes, &ring.full[place.slot]);
                to += Weights::kStripStageBytes;
                from += strip_bytes_;
            }
            source_ += bytes;
            ++chunk_;
            place.advance(ring.stages);
        }
    }

  private:
    UnitWalk walk_;
    const DecodeMatrix& matrix_;
    int chunks_;
    int chunk_;
    Unit unit_{};
    std::int64_t strip_bytes_ = 0;
    const std::uint8_t* source_ = nullptr;
};

}  // namespace tokamak::moe::cuda
