// SPDX-License-Identifier: Apache-2.0
// Units that go to the CTA that asks first, those of both phases in one sequence: what an SM gets of the memory's
// bandwidth differs, and so do experts. A CTA that is done with gate/up early begins with down units, whose row tiles
// were dealt first and are complete.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/units.cuh"

namespace tokamak::moe::cuda {

/// Stages before the end of a unit at which the next one is asked for: the answer takes a microsecond.
inline constexpr int kAskAhead = 4;

/// How the strips of row tiles are cut into numbered units: gate/up units tile by tile, then those of the down phase,
/// of which the last tiles have twice as many, so that all CTAs end at about the same time.
struct UnitNumbers {
    int tiles;
    int gate_up;    ///< units of a row tile
    int down;       ///< of one of the first `coarse` row tiles
    int down_fine;  ///< of the others
    int coarse;

    __device__ explicit UnitNumbers(const RowLists& lists)
        : tiles(lists.tile_count()),
          gate_up(lists.units(false)),
          down(lists.units(true)),
          down_fine(lists.fine_units()),
          coarse(lists.coarse_tiles()) {}
    [[nodiscard]] __device__ int first(bool of_down) const { return of_down ? tiles * gate_up : 0; }
    [[nodiscard]] __device__ int end(bool of_down) const {
        return tiles * gate_up + (of_down ? coarse * down + (tiles - coarse) * down_fine : 0);
    }
};

/// Into how many units the strips of a row tile are cut: those that take the fewest cycles in all, for CTAs that are
/// done early take others. It moves work about and changes no sum.
template <class Shape>
int fewest_cycles_units(int strips, int tiles) {
    constexpr int stage_tiles = Shape::Weights::kStageBlocks / Shape::Weights::kTileBlocks;
    const int chunks = (tiles + stage_tiles - 1) / stage_tiles;
    int best = 1;
    std::int64_t least = INT64_MAX;
    for (int each = 1; each <= Shape::kStrips && strips > 0; ++each) {
        const int units = (strips + each - 1) / each;
        const std::int64_t cycles = std::int64_t{units} * unit_cycles<Shape>(chunks, (strips + units - 1) / units);
        if (cycles >= least) continue;
        least = cycles;
        best = units;
    }
    return best;
}

/// By one thread, once the lists are there.
__device__ __forceinline__ void place_dealt_units(const GroupedArgs& args, const RowLists& lists) {
    const int down = args.down_units;
    lists.counts[2] = args.gate_up_units;
    lists.counts[3] = down;
    const int fine = lists.single_tiles() ? (static_cast<int>(gridDim.x) + down - 1) / down : 0;
    lists.counts[5] = max(0, lists.tile_count() - fine);
    lists.counts[6] = min(2 * down, max(1, args.down.strips));
}

/// Asks for units and tells the other roles of the CTA; a whole warp. Numbers become units here alone.
class UnitDealer {
  public:
    __device__ UnitDealer(const RowLists& lists, const GroupedArgs& args, int turn)
        : lists_(lists), args_(args), dealt_(turn) {
        put(turn, static_cast<int>(blockIdx.x));
    }
    __device__ __forceinline__ void ask() {
        if (threadIdx.x % 32 == 0) asked_ = atomicAdd(args_.dealt_units, 1);
    }
    /// What was asked for becomes the unit of a turn.
    __device__ __forceinline__ void deal(int turn) {
        if (turn == dealt_) return;
        dealt_ = turn;
        put(turn, static_cast<int>(gridDim.x) + asked_);
    }

  private:
    __device__ void put(int turn, int number) const {
        if (threadIdx.x % 32 == 0) {
            const UnitNumbers numbers(lists_);
            const int inside = number - numbers.first(true);
            const int fine = inside - numbers.coarse * numbers.down;
            if (inside < 0)
                lists_.deals.put(turn, unit_of(number, 0, numbers.gate_up, args_.gate_up.strips), 0);
            else if (number >= numbers.end(true))
                lists_.deals.put(turn, {}, 2);
            else if (fine < 0)
                lists_.deals.put(turn, unit_of(inside, 0, numbers.down, args_.down.strips), 1);
            else
                lists_.deals.put(turn, unit_of(fine, numbers.coarse, numbers.down_fine, args_.down.strips), 1);
        }
        __syncwarp();
    }
    /// Unit `number` of those of the row tiles from `first` on. In an expert units are numbered strips by strips, then
    /// row tile by row tile, so that tiles that need the same weights are at work at the same time.
    [[nodiscard]] __device__ Unit unit_of(int number, int first, int units, int strips) const {
        int tile = number / units;
        int part = number - tile * units;
        tile += first;
        if (!lists_.single_tiles()) {  // that was some tile of the expert
            const int first_tile = tile - lists_.tiles[tile].place;
            const int count = lists_.tiles[tile].count;
            const int index = number - (first_tile - first) * units;
            part = index / count;
            tile = first_tile + index - part * count;
        }
        const int each = strips / units;
        const int longer = strips - each * units;
        return {lists_.tiles[tile], tile, part * each + min(part, longer), each + (part < longer ? 1 : 0)};
    }

    const RowLists& lists_;
    const GroupedArgs& args_;
    int dealt_;
    int asked_ = 0;  ///< in lane 0
};

/// A role's way over the CTA's units of a phase. `turn`: of the next one, kept by the role.
template <class Shape>
class DealtWalk {
  public:
    __device__ DealtWalk(const RowLists& lists, const GroupedArgs&, bool down, int& turn)
        : lists_(lists), down_(down), turn_(turn) {}

    [[nodiscard]] __device__ int turn() const { return turn_; }
    __device__ bool next(Unit& unit) {
        const UnitDeal& deal = lists_.deals.await(turn_);
        const bool mine = deal.phase == (down_ ? 1 : 0);
        if (mine) unit = deal.unit;
        turn_ += mine || down_ ? 1 : 0;  // a pass ends with a turn without a unit
        return mine;
    }

  private:
    const RowLists& lists_;
    bool down_;
    int& turn_;
};

template <class Shape>
using RoleWalk = std::conditional_t<Shape::kDealt, DealtWalk<Shape>, UnitWalk<Shape>>;

}  // namespace tokamak::moe::cuda
