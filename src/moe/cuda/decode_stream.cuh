// SPDX-License-Identifier: Apache-2.0
// The stream of weights: every warp copies its share of its team's tiles into a ring of its own, first those of the
// gate/up matrices, then, without a break, those of the down matrices.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/decode_args.h"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

/// Place of a thread in its team.
struct Team {
    int count;  ///< teams in the CTA
    int index;  ///< of this one
    int warps;  ///< of a team
    int warp;   ///< in the team
    int lane;

    __device__ explicit Team(int cta_warps, int teams)
        : count(teams),
          index(static_cast<int>(threadIdx.x) / 32 / (cta_warps / teams)),
          warps(cta_warps / teams),
          warp(static_cast<int>(threadIdx.x) / 32 % warps),
          lane(static_cast<int>(threadIdx.x) % 32) {}
    [[nodiscard]] __device__ int threads() const { return warps * 32; }
    [[nodiscard]] __device__ int thread() const { return warp * 32 + lane; }
    /// Barrier 0 belongs to the CTA.
    __device__ void barrier() const { asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(threads()) : "memory"); }
};

/// Part `index` of `count` things cut into `parts` runs whose lengths differ by one at most.
struct Run {
    int first;
    int last;

    __device__ Run(int count, int parts, int index) {
        const int each = count / parts;
        const int rest = count - each * parts;
        first = each * index + min(index, rest);
        last = first + each + (index < rest ? 1 : 0);
    }
};

/// The strips of a phase are numbered expert by expert; a CTA takes a contiguous run of them, and so does a team.
struct StripRange {
    int first;
    int last;

    __device__ explicit StripRange(int strips) {
        const Run run(strips, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x));
        first = run.first;
        last = run.last;
    }
    __device__ StripRange(int strips, const Team& team) : StripRange(strips) {
        const Run run(last - first, team.count, team.index);
        last = first + run.last;
        first += run.first;
    }
};

/// A piece of a tile in global memory.
struct PieceSource {
    const std::uint8_t* piece = nullptr;
    const std::uint8_t* scales = nullptr;  ///< of formats whose strips end with them
};

/// Walks over the pieces of tiles that one warp multiplies, in both phases. Within a run (the strips of an expert;
/// one strip where scales end it) the next piece is an addition away. All lanes walk alike.
template <class Tile>
class TileCursor {
  public:
    __device__ TileCursor(const DecodeArgs& args, const Team& gate_up, const Team& down, const int* active,
                          int active_count)
        : args_(args), gate_up_(gate_up), down_team_(down), active_(active), active_count_(active_count) {
        start(false);
    }

    /// Whether there is another piece; `source` becomes where it is.
    __device__ bool next(PieceSource& source) {
        if (pieces_left_ == 0 && !next_run()) return false;
        --pieces_left_;
        source = source_;
        source_.piece += step_;
        if constexpr (Tile::kStripScales) source_.scales += scale_step_;
        return true;
    }

  private:
    static constexpr int kScaleBytes = 8;  ///< of a tile, at the end of the strip

    __device__ void start(bool down) {
        const int strips = down ? args_.down.strips : args_.gate_up.strips;
        const Team& team = down ? down_team_ : gate_up_;
        const StripRange range(active_count_ * strips, team);
        down_ = down;
        warps_ = team.warps;
        step_ = team.warps * Tile::kBytes;
        scale_step_ = team.warps / Tile::kPieces * kScaleBytes;
        strips_left_ = range.last - range.first;
        rank_ = range.first / strips;
        strip_ = range.first % strips;
        ahead_ = team.warp;
        pieces_left_ = 0;
    }

    /// Goes on to a run with pieces for this warp; false after the last.
    __device__ __forceinline__ bool next_run() {
        while (pieces_left_ == 0) {
            if (strips_left_ == 0) {
                if (down_) return false;
                start(true);
                continue;
            }
            const DecodeMatrix& matrix = down_ ? args_.down : args_.gate_up;
            const int strips =
                Tile::kStripScales || Tile::kGlobalScales ? 1 : min(strips_left_, matrix.strips - strip_);
            const int run = strips * matrix.tiles * Tile::kPieces;
            if (ahead_ < run) pieces_left_ = (run - ahead_ + warps_ - 1) / warps_;
            const std::uint8_t* const first =
                matrix.packed + active_[rank_] * matrix.expert_bytes + strip_ * matrix.strip_bytes;
            source_.piece = first + static_cast<std::int64_t>(ahead_) * Tile::kBytes;
            if constexpr (Tile::kStripScales)
                source_.scales = first + static_cast<std::int64_t>(matrix.tiles) * Tile::kPieces * Tile::kBytes +
                                 ahead_ / Tile::kPieces * kScaleBytes;
            ahead_ += pieces_left_ * warps_ - run;
            strips_left_ -= strips;
            strip_ += strips;
            if (strip_ == matrix.strips) {
                strip_ = 0;
                ++rank_;
            }
        }
        return true;
    }

    const DecodeArgs& args_;
    const Team& gate_up_;
    const Team& down_team_;
    const int* active_;
    int active_count_;
    bool down_ = false;
    int warps_ = 1;  ///< of the phase's team
    int step_ = 0;   ///< bytes from one of this warp's pieces to the next
    int scale_step_ = 0;
    PieceSource source_;
    int pieces_left_ = 0;  ///< of this warp in the run
    int strips_left_ = 0;  ///< of the team in the phase, after those of the run
    int rank_ = 0;         ///< of the next run's expert
    int strip_ = 0;        ///< where the next run begins
    int ahead_ = 0;        ///< this warp's first piece, counted from there
};

/// A piece that has arrived.
struct ArrivedPiece {
    const std::uint8_t* weights;
    const float* scales;  ///< of rows g and g + 8, for formats whose strips end with them
};

/// One warp's ring. Copies are issued and consumed in the same order, so slot and parity follow from a count. Scales
/// of 8 bytes are too small for bulk copies: one lane copies them, and its arrival is counted too.
template <class Tile>
class WarpRing {
  public:
    using Cursor = TileCursor<Tile>;

    /// `scales`: 8 bytes for each slot, for formats whose strips end with them.
    __device__ WarpRing(std::uint8_t* slots, std::uint8_t* scales, std::uint64_t* barriers, int count, int lane)
        : slots_(slots), scales_(scales), barriers_(barriers), count_(count), lane_(lane) {
        if (lane == 0) {
            for (int slot = 0; slot < count; ++slot) ptx::barrier_init(&barriers[slot], Tile::kStripScales ? 2 : 1);
            ptx::fence_barrier_init();
        }
        __syncwarp();
    }

    /// Fills the empty ring.
    __device__ void prime(Cursor& cursor) {
        int slot = slot_;
        PieceSource source;
        for (int i = 0; i < count_ && cursor.next(source); ++i) {
            issue(source, slot);
            if (++slot == count_) slot = 0;
        }
    }
    __device__ ArrivedPiece wait() const {
        ptx::barrier_wait(&barriers_[slot_], parity_);
        return {slots_ + slot_ * Tile::kBytes, reinterpret_cast<const float*>(scales_ + slot_ * 8)};
    }
    /// Call by all lanes when the slot has been read.
    __device__ void release(Cursor& cursor) {
        __syncwarp();
        PieceSource source;
        if (cursor.next(source)) issue(source, slot_);
        if (++slot_ == count_) {
            slot_ = 0;
            parity_ ^= 1;
        }
    }

  private:
    __device__ void issue(const PieceSource& source, int slot) {
        if constexpr (Tile::kStripScales) {
            if (lane_ == 1) {
                ptx::copy_small<8>(ptx::shared_address(scales_ + slot * 8), source.scales, true);
                ptx::copy_arrive(&barriers_[slot]);
            }
        }
        if (lane_ != 0) return;
        ptx::barrier_arrive_expect(&barriers_[slot], Tile::kBytes);
        ptx::bulk_copy(slots_ + slot * Tile::kBytes, source.piece, Tile::kBytes, &barriers_[slot]);
    }

    std::uint8_t* slots_;
    std::uint8_t* scales_;
    std::uint64_t* barriers_;
    int count_;
    int lane_;
    int slot_ = 0;
    std::uint32_t parity_ = 0;
};

}  // namespace tokamak::moe::cuda
