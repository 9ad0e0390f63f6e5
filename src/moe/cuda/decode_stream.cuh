// SPDX-License-Identifier: Apache-2.0
// The stream of weights: every warp copies its share of its team's tiles into a ring of its own, first those of the
// gate/up matrices, then, without a break, those of the down matrices.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

/// Place of a thread in its team.
struct Team {
    const DecodeTeams& teams;
    int index;  ///< of this team
    int warps;  ///< of a team
    int warp;   ///< in the team
    int lane;

    __device__ explicit Team(const DecodeTeams& all)
        : teams(all),
          index(quotient(static_cast<int>(threadIdx.x) / 32, all.warps)),
          warps(static_cast<int>(all.warps.value)),
          warp(static_cast<int>(threadIdx.x) / 32 - index * warps),
          lane(static_cast<int>(threadIdx.x) % 32) {}
    [[nodiscard]] __device__ int threads() const { return warps * 32; }
    [[nodiscard]] __device__ int thread() const { return warp * 32 + lane; }
    /// Barrier 0 belongs to the CTA.
    __device__ void barrier() const { asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(threads()) : "memory"); }
};

/// Part `index` of `count` things cut into runs whose lengths differ by one at most.
struct Run {
    int first;
    int count;

    __device__ Run(int things, const Divisor& runs, int index) {
        const int each = quotient(things, runs);
        const int rest = things - each * static_cast<int>(runs.value);
        first = each * index + min(index, rest);
        count = each + (index < rest ? 1 : 0);
    }
};

/// The strips of a phase are numbered expert by expert; a CTA takes a contiguous run of them, and so does a team.
struct Share {
    int strips;  ///< of the team
    int rank;    ///< of its first strip
    int strip;   ///< the first, counted in its expert
    int first_rank;
    int last_rank;  ///< of the CTA; below first_rank if it has no strip

    Share() = default;
    __device__ Share(const DecodeArgs& args, const DecodeMatrix& matrix, const Team& team, int active) {
        const int expert_strips = matrix.strips;
        const Run cta(active * expert_strips, args.grid, static_cast<int>(blockIdx.x));
        const Run own(cta.count, team.teams.count, team.index);
        const int first = cta.first + own.first;
        strips = own.count;
        rank = quotient(first, matrix.by_strips);
        strip = first - rank * expert_strips;
        first_rank = quotient(cta.first, matrix.by_strips);
        last_rank = cta.count == 0 ? first_rank - 1 : quotient(cta.first + cta.count - 1, matrix.by_strips);
    }
};

/// A piece of a tile in global memory.
struct PieceSource {
    const std::uint8_t* piece = nullptr;
    const std::uint8_t* scales = nullptr;  ///< of formats whose strips end with them
};

/// Walks over the pieces of tiles that one warp multiplies, in both phases. Within a run (the strips of an expert;
/// one strip where scales end it) the next piece is an addition away. All lanes walk alike. `Experts` gives the local
/// expert of a rank.
template <class Tile, class Experts>
class TileCursor {
  public:
    __device__ TileCursor(const DecodeArgs& args, const Team& gate_up, const Share& gate_up_share, const Team& down,
                          const Share& down_share, const Experts& active)
        : args_(args), down_team_(down), down_share_(down_share), active_(active) {
        start(gate_up, gate_up_share);
    }

    /// Whether there is another piece.
    __device__ bool ready() { return pieces_left_ != 0 || next_run(); }
    /// Where it is.
    [[nodiscard]] __device__ const PieceSource& source() const { return source_; }
    __device__ void advance() {
        --pieces_left_;
        source_.piece += step_;
        if constexpr (Tile::kStripScales) source_.scales += scale_step_;
    }

  private:
    static constexpr int kScaleBytes = 8;  ///< of a tile, at the end of the strip

    __device__ void start(const Team& team, const Share& share) {
        by_warps_ = &team.teams.warps;
        warps_ = team.warps;
        step_ = team.warps * Tile::kBytes;
        scale_step_ = team.warps / Tile::kPieces * kScaleBytes;
        strips_left_ = share.strips;
        rank_ = share.rank;
        strip_ = share.strip;
        ahead_ = team.warp;
        pieces_left_ = 0;
    }

    /// Goes on to a run with pieces for this warp; false after the last.
    __device__ __forceinline__ bool next_run() {
        while (pieces_left_ == 0) {
            if (strips_left_ == 0) {
                if (down_) return false;
                down_ = true;
                start(down_team_, down_share_);
                continue;
            }
            const DecodeMatrix& matrix = down_ ? args_.down : args_.gate_up;
            const int strips =
                Tile::kStripScales || Tile::kGlobalScales ? 1 : min(strips_left_, matrix.strips - strip_);
            const int run = strips * matrix.tiles * Tile::kPieces;
            if (ahead_ < run) pieces_left_ = quotient(run - ahead_ + warps_ - 1, *by_warps_);
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
    const Team& down_team_;
    const Share& down_share_;
    Experts active_;
    const Divisor* by_warps_ = nullptr;
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
    /// `scales`: 8 bytes for each slot, for formats whose strips end with them.
    __device__ WarpRing(std::uint8_t* slots, std::uint8_t* scales, std::uint64_t* barriers, int count, int lane)
        : slots_(slots), scales_(scales), barriers_(barriers), count_(count), lane_(lane) {}

    /// Once, before anything else.
    __device__ void begin() {
        if (lane_ == 0) {
#pragma unroll 1
            for (int slot = 0; slot < count_; ++slot) ptx::barrier_init(&barriers_[slot], Tile::kStripScales ? 2 : 1);
            ptx::fence_barrier_init();
        }
        __syncwarp();
    }
    /// The same in less time; not for gathered rows, whose kernel took 0.9% longer with it.
    __device__ void begin_elected() {
        // Of 8 warps: 910 cycles in a loop of lane 0 (the compiler loops over lanes), 630 in one of an elected lane,
        // 320 unrolled. The last ones more than once where the count is no multiple of three.
        if (ptx::elect_lane()) {
            const int last = count_ - 1;
#pragma unroll 1
            for (int slot = 0; slot <= last; slot += 3)
#pragma unroll
                for (int i = 0; i < 3; ++i)
                    ptx::barrier_init(&barriers_[min(slot + i, last)], Tile::kStripScales ? 2 : 1);
            ptx::fence_barrier_init();
        }
        __syncwarp();
    }

    /// Fills the empty ring.
    template <class Cursor>
    __device__ void prime(Cursor& cursor) {
        int slot = slot_;
#pragma unroll 1
        for (int i = 0; i < count_ && cursor.ready(); ++i) {
            issue(cursor.source(), slot);
            cursor.advance();
            if (++slot == count_) slot = 0;
        }
    }
    __device__ ArrivedPiece wait() const {
        ptx::barrier_wait(&barriers_[slot_], parity_);
        return {slots_ + slot_ * Tile::kBytes, reinterpret_cast<const float*>(scales_ + slot_ * 8)};
    }
    /// Call by all lanes when the slot has been read.
    template <class Cursor>
    __device__ void release(Cursor& cursor) {
        __syncwarp();
        if (cursor.ready()) {
            issue(cursor.source(), slot_);
            cursor.advance();
        }
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
        if (!ptx::elect_lane()) return;
        ptx::barrier_arrive_expect(&barriers_[slot], Tile::kBytes);
        ptx::bulk_copy_once(slots_ + slot * Tile::kBytes, source.piece, Tile::kBytes, &barriers_[slot]);
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
