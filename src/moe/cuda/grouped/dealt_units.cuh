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

/// By one thread, once the row tiles are there. Gate/up units are numbered tile by tile, then those of the down phase,
/// of which the last row tiles have more.
__device__ __forceinline__ void place_dealt_units(const GroupedArgs& args, const RowLists& lists) {
    lists.counts[2] = args.gate_up_units;
    lists.counts[5] = max(0, lists.tile_count() - (lists.single_tiles() ? args.fine_tiles : 0));
}

/// Numbers become units here alone. By one thread. In an expert units are numbered strips by strips, then row tile by
/// row tile, so that tiles that need the same weights are at work at the same time.
__device__ __forceinline__ void deal_unit(const GroupedArgs& args, const RowLists& lists, int turn, int number) {
    const int tiles = lists.tile_count();
    int phase = 0;
    int cut = 0;
    int first = 0;
    if (number >= tiles * static_cast<int>(args.cuts[0].units.value)) {
        number -= tiles * static_cast<int>(args.cuts[0].units.value);
        phase = 1;
        cut = 1;
        const int coarse = lists.coarse_tiles();
        if (number >= coarse * static_cast<int>(args.cuts[1].units.value)) {
            number -= coarse * static_cast<int>(args.cuts[1].units.value);
            cut = 2;
            first = coarse;
        }
    }
    const int units = static_cast<int>(args.cuts[cut].units.value);
    const int inside = quotient(number, args.cuts[cut].units);
    int tile = first + inside;
    int part = number - inside * units;
    if (tile >= tiles) return lists.deals.put(turn, {}, 2);
    if (!lists.single_tiles()) {  // that was some tile of the expert
        const int first_tile = tile - lists.tiles[tile].place;
        const int count = lists.tiles[tile].count;
        const int index = number - (first_tile - first) * units;
        part = index / count;
        tile = first_tile + index - part * count;
    }
    const int longer = args.cuts[cut].longer;
    const int each = args.cuts[cut].each;
    lists.deals.put(turn, {lists.tiles[tile], tile, part * each + min(part, longer), each + (part < longer ? 1 : 0)},
                    phase);
}

/// Asks for units and tells the other roles of the CTA; a whole warp. The first unit of a pass is dealt before.
class UnitDealer {
  public:
    /// `asks`: other warps run the same code and do nothing here.
    __device__ UnitDealer(const RowLists& lists, const GroupedArgs& args, int turn, bool asks)
        : lists_(lists), args_(args), asks_(asks), dealt_(turn) {}
    __device__ __forceinline__ void ask() {
        if (asks_ && threadIdx.x % 32 == 0) asked_ = atomicAdd(args_.dealt_units, 1);
    }
    /// What was asked for becomes the unit of a turn.
    __device__ __forceinline__ void deal(int turn) {
        if (!asks_ || turn == dealt_) return;
        dealt_ = turn;
        if (threadIdx.x % 32 == 0) deal_unit(args_, lists_, turn, static_cast<int>(gridDim.x) + asked_);
        __syncwarp();
    }

  private:
    const RowLists& lists_;
    const GroupedArgs& args_;
    bool asks_;
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
