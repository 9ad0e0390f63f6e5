// SPDX-License-Identifier: Apache-2.0
// The stream of weights: every warp copies its share of its team's tiles into a ring of its own, first those of the
// gate/up matrices, then, without a break, those of the down matrices.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/copy.cuh"
#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

/// Place of a thread in its team.
struct Team {
    int index;  ///< of the CTA's teams
    int warps;  ///< of a team
    int warp;   ///< in the team
    int lane;

    __device__ explicit Team(int cta_warps, int teams)
        : index(static_cast<int>(threadIdx.x) / 32 / (cta_warps / teams)),
          warps(cta_warps / teams),
          warp(static_cast<int>(threadIdx.x) / 32 % warps),
          lane(static_cast<int>(threadIdx.x) % 32) {}
    [[nodiscard]] __device__ int threads() const { return warps * 32; }
    [[nodiscard]] __device__ int thread() const { return warp * 32 + lane; }
    /// Barrier 0 belongs to the CTA.
    __device__ void barrier() const { asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(threads()) : "memory"); }
};

/// The strips of a phase are numbered expert by expert; a team takes a contiguous range of them.
struct StripRange {
    int first;
    int last;

    __device__ StripRange(const DecodeArgs& args, int strips, const Team& team) {
        const std::int64_t part = static_cast<std::int64_t>(blockIdx.x) * args.teams + team.index;
        const std::int64_t parts = static_cast<std::int64_t>(gridDim.x) * args.teams;
        first = static_cast<int>(strips * part / parts);
        last = static_cast<int>(strips * (part + 1) / parts);
    }
};

/// Walks over the tiles that one warp multiplies, in both phases.
class TileCursor {
  public:
    __device__ TileCursor(const DecodeArgs& args, const Team& team, const int* active, int active_count)
        : args_(args), team_(team), active_(active), active_count_(active_count) {
        start(false);
    }

    /// The warp's next tile, or null after the last.
    template <int TileBytes>
    __device__ const std::uint8_t* next() {
        while (true) {
            const int tiles = down_ ? args_.down.tiles : args_.gate_up.tiles;
            const int strips = down_ ? args_.down.strips : args_.gate_up.strips;
            while (tile_ >= tiles) {
                tile_ -= tiles;
                --left_;
                if (++strip_ == strips) {
                    strip_ = 0;
                    ++rank_;
                }
            }
            if (left_ > 0) {
                const std::uint8_t* const packed = down_ ? args_.down.packed : args_.gate_up.packed;
                const std::int64_t bytes = down_ ? args_.down.expert_bytes : args_.gate_up.expert_bytes;
                const std::int64_t tile = static_cast<std::int64_t>(strip_) * tiles + tile_;
                tile_ += team_.warps;
                return packed + active_[rank_] * bytes + tile * TileBytes;
            }
            if (down_) return nullptr;
            start(true);
        }
    }

  private:
    __device__ void start(bool down) {
        const int strips = down ? args_.down.strips : args_.gate_up.strips;
        const StripRange range(args_, active_count_ * strips, team_);
        down_ = down;
        left_ = range.last - range.first;
        rank_ = range.first / strips;
        strip_ = range.first % strips;
        tile_ = team_.warp;
    }

    const DecodeArgs& args_;
    const Team& team_;
    const int* active_;
    int active_count_;
    bool down_ = false;
    int left_ = 0;  ///< strips of the phase, the current one included
    int rank_ = 0;
    int strip_ = 0;
    int tile_ = 0;
};

/// One warp's ring. Copies are issued and consumed in the same order, so slot and parity follow from a count.
template <int TileBytes>
class WarpRing {
  public:
    __device__ WarpRing(std::uint8_t* slots, std::uint64_t* barriers, int count, int lane)
        : slots_(slots), barriers_(barriers), count_(count), lane_(lane) {
        if (lane == 0) {
            for (int slot = 0; slot < count; ++slot) ptx::barrier_init(&barriers[slot], 1);
            ptx::fence_barrier_init();
        }
        __syncwarp();
    }

    /// Fills the empty ring.
    __device__ void prime(TileCursor& cursor) {
        if (lane_ != 0) return;
        int slot = slot_;
        for (int i = 0; i < count_; ++i) {
            if (!issue(cursor, slot)) return;
            if (++slot == count_) slot = 0;
        }
    }
    __device__ const std::uint8_t* wait() const {
        ptx::barrier_wait(&barriers_[slot_], parity_);
        return slots_ + slot_ * TileBytes;
    }
    /// Call by all lanes when the slot has been read.
    __device__ void release(TileCursor& cursor) {
        __syncwarp();
        if (lane_ == 0) issue(cursor, slot_);
        if (++slot_ == count_) {
            slot_ = 0;
            parity_ ^= 1;
        }
    }

  private:
    __device__ bool issue(TileCursor& cursor, int slot) {
        const std::uint8_t* const tile = cursor.next<TileBytes>();
        if (tile == nullptr) return false;
        ptx::barrier_arrive_expect(&barriers_[slot], TileBytes);
        ptx::bulk_copy(slots_ + slot * TileBytes, tile, TileBytes, &barriers_[slot]);
        return true;
    }

    std::uint8_t* slots_;
    std::uint64_t* barriers_;
    int count_;
    int lane_;
    int slot_ = 0;
    std::uint32_t parity_ = 0;
};

}  // namespace tokamak::moe::cuda
