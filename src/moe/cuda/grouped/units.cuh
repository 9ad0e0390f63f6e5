// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/shape.cuh"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct Unit {
    RowTile tile;
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
__device__ __forceinline__ int choose_units(const DecodeMatrix& matrix, int tiles) {
    if (matrix.strips == 0) return 1;
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

/// Deals units to the CTAs, in one of two ways.
/// One row tile for each expert: the strips are numbered tile by tile, a CTA takes a contiguous range of equal cost and
/// from it up to kStrips at a time.
/// Several: each row tile has the same number of units, which share its strips evenly; they are numbered expert by
/// expert, in an expert strips by strips, then row tile by row tile, and dealt in turn: row tiles that need the same
/// weights are at work at the same time, so that all but one find them in the L2.
template <class Shape>
class UnitWalk {
  public:
    __device__ UnitWalk(const RowLists& lists, const DecodeMatrix& matrix, int units)
        : lists_(lists), strips_(matrix.strips), units_(units), ranges_(lists.single_tiles()) {
        if (!ranges_) {
            next_ = static_cast<int>(blockIdx.x);
            end_ = lists.tile_count() * units;
            return;
        }
        next_ = first_strip(static_cast<int>(blockIdx.x));
        end_ = first_strip(static_cast<int>(blockIdx.x) + 1);
    }

    __device__ bool next(Unit& unit) {
        if (next_ >= end_) return false;
        if (ranges_) {
            const int tile = next_ / strips_;
            const int strip = next_ % strips_;
            unit = {lists_.tiles[tile], strip, min(min(Shape::kStrips, strips_ - strip), end_ - next_)};
            next_ += unit.strips;
            return true;
        }
        const int some_tile = next_ / units_;  // of the expert
        const int first_tile = some_tile - lists_.tiles[some_tile].place;
        const int count = lists_.tiles[some_tile].count;
        const int index = next_ - first_tile * units_;
        const int part = index / count;
        const int begin = static_cast<int>(static_cast<std::int64_t>(strips_) * part / units_);
        const int end = static_cast<int>(static_cast<std::int64_t>(strips_) * (part + 1) / units_);
        unit = {lists_.tiles[first_tile + index % count], begin, end - begin};
        next_ += static_cast<int>(gridDim.x);
        return true;
    }

  private:
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

    const RowLists& lists_;
    int strips_;
    int units_;  ///< of a row tile
    bool ranges_;
    int next_;
    int end_;
};

}  // namespace tokamak::moe::cuda
