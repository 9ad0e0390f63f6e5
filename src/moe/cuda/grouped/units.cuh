// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/shape.cuh"

namespace tokamak::moe::cuda {

/// Cycles that a CTA takes for a unit: what its strips stream, or what the busiest warpgroup computes, and the end of
/// the unit. Rough; it weighs many small units against few large ones.
template <class Shape>
__host__ __device__ constexpr int unit_cycles(int chunks, int strips) {
    using Weights = typename Shape::Weights;
    constexpr int bytes_per_cycle = 20;
    constexpr int end = 1500;
    const int own = (strips + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
    const int stream = strips * Weights::kStripStageBytes / bytes_per_cycle;
    const int computed = Weights::kFirstStripCycles + (own - 1) * Weights::kNextStripCycles;
    return chunks * (stream > computed ? stream : computed) + end;
}

/// Into how many units the strips of a row tile are cut. By the lanes of one warp; all get the answer. It moves work
/// about and changes no sum. Where the down phase's ranges even out what CTAs had to do before (`evened`), the fewest
/// cycles in all count, otherwise those of the CTA with the most units.
template <class Shape>
__device__ __forceinline__ int choose_units(const DecodeMatrix& matrix, int tiles, bool evened) {
    if (matrix.strips == 0) return 1;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int chunks = Shape::chunks(matrix);
    std::uint32_t best = 0xFFFFFFFFU;
    if (lane < Shape::kStrips) {
        const int units = (matrix.strips + lane) / (lane + 1);
        const int strips = (matrix.strips + units - 1) / units;
        const auto ctas = static_cast<int>(gridDim.x);
        const int all = tiles * units;
        const auto each =
            evened ? static_cast<float>(all) / static_cast<float>(ctas) : static_cast<float>((all + ctas - 1) / ctas);
        const float most = each * static_cast<float>(unit_cycles<Shape>(chunks, strips)) / 16.0F;
        best = static_cast<std::uint32_t>(fminf(most, 67000000.0F)) << 5 | static_cast<std::uint32_t>(lane);
    }
    const int strips = static_cast<int>(__reduce_min_sync(0xFFFFFFFFU, best) % 32) + 1;
    return (matrix.strips + strips - 1) / strips;
}

/// CTAs in the order in which they begin with the down phase: those that had a gate/up unit less come first.
struct DownOrder {
    int ctas;
    int longer;   ///< CTAs with a unit more
    int shorter;  ///< others, if there are any of both

    __device__ explicit DownOrder(int units)
        : ctas(static_cast<int>(gridDim.x)), longer(units % ctas), shorter(longer == 0 ? 0 : ctas - longer) {}
    [[nodiscard]] __device__ int place(int cta) const { return cta < longer ? cta + shorter : cta - longer; }
    [[nodiscard]] __device__ int cta(int place) const { return place < shorter ? place + longer : place - shorter; }
};

/// What a CTA's gate/up units cost, where a whole row tile's cost kStripCost.
__device__ __forceinline__ float gate_up_cost(const RowLists& lists, int cta) {
    const int units = lists.units(false);
    const int all = lists.tile_count() * units;
    const int step = static_cast<int>(gridDim.x);
    const int cost = cta < all ? (all - cta + step - 1) / step * kStripCost : 0;
    return static_cast<float>(cost) / static_cast<float>(units);
}

/// The first (row tile, strip) of `strips` in each tile whose cost before it reaches `share` of all costs.
__device__ __forceinline__ int strip_at(const RowLists& lists, int strips, float share) {
    const auto before =
        static_cast<std::int64_t>(share * static_cast<float>(lists.cost()) * static_cast<float>(strips));
    int low = 0;
    int high = lists.tile_count();
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (static_cast<std::int64_t>(lists.tiles[middle].cost_before) * strips <= before ? low : high) = middle;
    }
    const auto inside = static_cast<int>(before - static_cast<std::int64_t>(lists.tiles[low].cost_before) * strips);
    return low * strips + min(strips, (inside + kStripCost - 1) / kStripCost);
}

/// Finds the range of down strips that gives this CTA as much to do as the others have, its gate/up units included. By
/// one warp. All CTAs compute the same borders.
template <class Shape>
__device__ __forceinline__ void share_down(const GroupedArgs& args, const RowLists& lists) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int tiles = lists.tile_count();
    const DownOrder order(tiles * lists.units(false));
    const float gate_up = static_cast<float>(args.gate_up.strips) * static_cast<float>(Shape::chunks(args.gate_up));
    const float down = static_cast<float>(args.down.strips) * static_cast<float>(Shape::chunks(args.down));
    const float each = static_cast<float>(lists.cost()) * (gate_up + down) / static_cast<float>(order.ctas);
    const int own = order.place(static_cast<int>(blockIdx.x));
    float before = 0.0F;  // of the places of earlier rounds
    float begin = 0.0F;
    float end = 0.0F;
    for (int first = 0; first < order.ctas; first += 32) {
        const int place = first + lane;
        const float share =
            place < order.ctas ? fmaxf(0.0F, each - gate_up * gate_up_cost(lists, order.cta(place))) : 0.0F;
        float sum = share;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const float other = __shfl_up_sync(0xFFFFFFFFU, sum, distance);
            if (lane >= distance) sum += other;
        }
        sum += before;
        const float previous = __shfl_up_sync(0xFFFFFFFFU, sum, 1);
        if (own >= first && own < first + 32) {
            end = __shfl_sync(0xFFFFFFFFU, sum, own - first);
            begin = own == first ? before : __shfl_sync(0xFFFFFFFFU, previous, own - first);
        }
        before = __shfl_sync(0xFFFFFFFFU, sum, 31);
    }
    if (lane > 0) return;
    const int strips = args.down.strips;
    const bool some = tiles > 0 && before > 0.0F;
    const bool last = own == order.ctas - 1;
    lists.counts[5] = some ? strip_at(lists, strips, begin / before) : 0;
    lists.counts[6] = last ? tiles * strips : some ? strip_at(lists, strips, end / before) : 0;
}

/// By one warp, once the lists are there: units of a row tile and the CTA's share of the down phase.
template <class Shape>
__device__ __forceinline__ void place_units(const GroupedArgs& args, const RowLists& lists) {
    const bool single = lists.single_tiles();
    const int tiles = lists.tile_count();
    if (single && !Shape::kAnnounces) return;  // ranges of strips
    const int gate_up = Shape::kStepStrips > 1 ? (args.gate_up.strips + Shape::kStepStrips - 1) / Shape::kStepStrips
                                               : choose_units<Shape>(args.gate_up, tiles, single);
    const int down = single ? 1 : choose_units<Shape>(args.down, tiles, false);
    if (threadIdx.x == 0) {
        lists.counts[2] = gate_up;
        lists.counts[3] = down;
    }
    __syncwarp();
    if (single && Shape::kAnnounces) share_down<Shape>(args, lists);
}

/// Deals units to the CTAs. They consist of steps: a strip, or where the end of a unit needs all columns of a group,
/// the strips of one. Units of a row tile share its steps evenly; they are numbered expert by expert, in an expert
/// strips by strips, then row tile by row tile, and dealt in turn: row tiles that need the same weights are at work at
/// the same time, so that all but one find them in the L2. The first experts are done first, so that the down phase can
/// begin while the last units of the gate/up phase are at work. One row tile for each expert: the strips are numbered
/// tile by tile, a CTA takes a contiguous range of them and from it up to kStrips strips at a time. So in both phases,
/// in ranges of equal cost, or, where tiles announce their rows, only in the down phase, in ranges that even out the
/// gate/up phase (share_down).
template <class Shape>
class UnitWalk {
  public:
    __device__ UnitWalk(const RowLists& lists, const GroupedArgs& args, bool down, int&)
        : lists_(lists),
          strips_((down ? args.down : args.gate_up).strips),
          step_strips_(down ? 1 : Shape::kStepStrips),
          steps_((strips_ + step_strips_ - 1) / step_strips_),
          units_(lists.units(down)),
          steps_each_(steps_ / max(units_, 1)),
          longer_(steps_ - steps_each_ * units_),
          ranges_(lists.single_tiles() && (down || !Shape::kAnnounces)) {
        const int cta = static_cast<int>(blockIdx.x);
        if (!ranges_) {
            next_ = cta;
            end_ = lists.tile_count() * units_;
        } else if constexpr (Shape::kAnnounces) {
            next_ = lists.down_begin();
            end_ = lists.down_end();
        } else {
            next_ = first_strip(cta);
            end_ = first_strip(cta + 1);
        }
    }

    __device__ bool next(Unit& unit) {
        if (next_ >= end_) return false;
        if (ranges_) {
            const int tile = next_ / strips_;
            const int strip = next_ % strips_;
            take(unit, tile, strip, min(min(Shape::kStrips, strips_ - strip), end_ - next_));
            next_ += unit.strips;
            return true;
        }
        int tile = next_ / units_;
        int part = next_ - tile * units_;
        if (!lists_.single_tiles()) {  // that was some tile of the expert
            const int first_tile = tile - lists_.tiles[tile].place;
            const int count = lists_.tiles[tile].count;
            const int index = next_ - first_tile * units_;
            part = index / count;
            tile = first_tile + index - part * count;
        }
        take(unit, tile, part * steps_each_ + min(part, longer_), steps_each_ + (part < longer_ ? 1 : 0));
        next_ += static_cast<int>(gridDim.x);
        return true;
    }

  private:
    __device__ void take(Unit& unit, int tile, int step, int steps) const {
        const int strip = step * step_strips_;
        unit = {lists_.tiles[tile], tile, strip, min(steps * step_strips_, strips_ - strip)};
    }

    /// Where the range of a CTA begins in ranges of equal cost.
    [[nodiscard]] __device__ int first_strip(int cta) const {
        const int ctas = static_cast<int>(gridDim.x);
        if (cta == ctas || lists_.tile_count() == 0) return lists_.tile_count() * strips_;
        return strip_at(lists_, strips_, static_cast<float>(cta) / static_cast<float>(ctas));
    }

    const RowLists& lists_;
    int strips_;
    int step_strips_;
    int steps_;  ///< of a row tile
    int units_;
    int steps_each_;  ///< of a unit; the first `longer_` have one more
    int longer_;
    bool ranges_;
    int next_;
    int end_;
};

}  // namespace tokamak::moe::cuda
