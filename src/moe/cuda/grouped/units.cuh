// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/shape.cuh"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct Unit {
    RowTile tile;
    int index;  ///< of the row tile
    int strip;
    int strips;

    /// Rows in whole eights.
    [[nodiscard]] __device__ int width() const { return (tile.rows + 7) / 8 * 8; }
};

/// Cycles that a CTA takes for a unit: what its strips stream, or what the busiest warpgroup computes, and the end of
/// the unit. Rough; it weighs many small units against few large ones.
template <class Shape>
__device__ __forceinline__ int unit_cycles(int chunks, int strips) {
    using Weights = typename Shape::Weights;
    constexpr int bytes_per_cycle = 20;
    constexpr int end = 1500;
    const int own = (strips + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
    const int stream = strips * Weights::kStripStageBytes / bytes_per_cycle;
    return chunks * max(stream, Weights::kFirstStripCycles + (own - 1) * Weights::kNextStripCycles) + end;
}

/// Into how many units the strips of a row tile are cut so that the CTA with the most of them is done first. By the
/// lanes of one warp; all get the answer. It moves work about and changes no sum.
template <class Shape>
__device__ __forceinline__ int choose_units(const DecodeMatrix& matrix, int tiles, bool down) {
    if (matrix.strips == 0) return 1;
    if (!down && Shape::kStepStrips > 1) return (matrix.strips + Shape::kStepStrips - 1) / Shape::kStepStrips;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int chunks = Shape::chunks(matrix);
    std::uint32_t best = 0xFFFFFFFFU;
    if (lane < Shape::kStrips) {
        const int units = (matrix.strips + lane) / (lane + 1);
        const int strips = (matrix.strips + units - 1) / units;
        const auto ctas = static_cast<std::int64_t>(gridDim.x);
        const auto rounds = static_cast<int>((static_cast<std::int64_t>(tiles) * units + ctas - 1) / ctas);
        const std::int64_t cycles = static_cast<std::int64_t>(rounds) * unit_cycles<Shape>(chunks, strips);
        best = static_cast<std::uint32_t>(min(cycles / 16, std::int64_t{0x3FFFFFF})) << 5 |
               static_cast<std::uint32_t>(lane);
    }
    const int most = static_cast<int>(__reduce_min_sync(0xFFFFFFFFU, best) % 32) + 1;
    return (matrix.strips + most - 1) / most;
}

/// Deals units to the CTAs, in one of two ways. They consist of steps: a strip, or where the end of a unit needs all
/// columns of a group, the strips of one.
/// One row tile for each expert: the strips are numbered tile by tile, a CTA takes a contiguous range of equal cost and
/// from it up to kStrips strips at a time.
/// Several, or whole groups: each row tile has the same number of units, which share its steps evenly; they are
/// numbered expert by expert, in an expert strips by strips, then row tile by row tile, and dealt in turn: row tiles
/// that need the same weights are at work at the same time, so that all but one find them in the L2. The first experts
/// are done first, so that the down phase can begin while the last units of the gate/up phase are at work.
template <class Shape>
class UnitWalk {
  public:
    __device__ UnitWalk(const RowLists& lists, const GroupedArgs& args, bool down)
        : lists_(lists),
          strips_((down ? args.down : args.gate_up).strips),
          step_strips_(down ? 1 : Shape::kStepStrips),
          steps_((strips_ + step_strips_ - 1) / step_strips_),
          units_(kGroups && !down ? steps_ : lists.units(down)),
          ranges_(lists.single_tiles() && (!kGroups || down)) {
        const int cta = static_cast<int>(blockIdx.x);
        if (!ranges_) {
            next_ = cta;
            end_ = lists.tile_count() * units_;
            return;
        }
        if constexpr (kGroups) {
            share_down(args, cta);
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
        const int some_tile = next_ / units_;  // of the expert
        const int first_tile = some_tile - lists_.tiles[some_tile].place;
        const int count = lists_.tiles[some_tile].count;
        const int index = next_ - first_tile * units_;
        const int part = index / count;
        const int begin = static_cast<int>(static_cast<std::int64_t>(steps_) * part / units_);
        const int end = static_cast<int>(static_cast<std::int64_t>(steps_) * (part + 1) / units_);
        take(unit, first_tile + index % count, begin, end - begin);
        next_ += static_cast<int>(gridDim.x);
        return true;
    }

  private:
    __device__ void take(Unit& unit, int tile, int step, int steps) const {
        const int strip = step * step_strips_;
        unit = {lists_.tiles[tile], tile, strip, min(steps * step_strips_, strips_ - strip)};
    }
    /// The first (row tile, strip) whose cost before it reaches the share of the CTAs before `cta`.
    [[nodiscard]] __device__ int first_strip(int cta) const {
        const std::int64_t share = static_cast<std::int64_t>(lists_.cost()) * strips_ * cta / gridDim.x;
        int low = 0;
        int high = lists_.tile_count();
        if (cta == static_cast<int>(gridDim.x) || high == 0) return high * strips_;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (static_cast<std::int64_t>(lists_.tiles[middle].cost_before) * strips_ <= share)
                low = middle;
            else
                high = middle;
        }
        const RowTile& tile = lists_.tiles[low];
        const int cost = strip_cost<Shape>(tile.rows);
        const auto inside = static_cast<int>(share - static_cast<std::int64_t>(tile.cost_before) * strips_);
        return low * strips_ + min(strips_, (inside + cost - 1) / cost);
    }
    /// A range of down strips: CTAs that had a gate/up unit less come first and get as much more.
    __device__ void share_down(const GroupedArgs& args, int cta) {
        constexpr int part = 256;  // of a strip
        const int ctas = static_cast<int>(gridDim.x);
        const int groups = (args.gate_up.strips + Shape::kStepStrips - 1) / Shape::kStepStrips;
        const int longer = lists_.tile_count() * groups % ctas;  // CTAs with a unit more
        const int shorter = longer == 0 ? 0 : ctas - longer;
        const int total = lists_.tile_count() * strips_;
        int more = 0;
        if (shorter > 0)
            more = min(Shape::kStepStrips * part * Shape::chunks(args.gate_up) / Shape::chunks(args.down),
                       static_cast<int>(static_cast<std::int64_t>(total) * part / shorter));
        const auto each = static_cast<int>(
            (static_cast<std::int64_t>(total) * part - static_cast<std::int64_t>(shorter) * more) / ctas);
        const auto begin = [&](int place) {
            if (place == ctas) return total;
            return static_cast<int>(
                (static_cast<std::int64_t>(place) * each + static_cast<std::int64_t>(min(place, shorter)) * more) /
                part);
        };
        const int place = cta < longer ? cta + shorter : cta - longer;
        next_ = begin(place);
        end_ = begin(place + 1);
    }

    static constexpr bool kGroups = Shape::kStepStrips > 1;
    const RowLists& lists_;
    int strips_;
    int step_strips_;
    int steps_;  ///< of a row tile
    int units_;
    bool ranges_;
    int next_;
    int end_;
};

}  // namespace tokamak::moe::cuda
