// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/lists.cuh"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct WideUnit {
    int expert;
    int first;  ///< place of the first row in the list
    int rows;
    int strip;
    int strips;
};

/// Deals units to the CTAs, in one of two ways.
/// One row tile for each expert: the strips are numbered expert by expert, a CTA takes a contiguous range of equal cost
/// and from it up to `most` strips at a time.
/// Several: units are numbered expert by expert, in an expert strips by strips, then row tile by row tile, and dealt in
/// turn: row tiles that need the same weights are at work at the same time, so that all but one find them in the L2.
class WideWalk {
  public:
    __device__ WideWalk(const WideTables& tables, const DecodeMatrix& matrix, bool down, int most)
        : tables_(tables),
          strips_(matrix.strips),
          units_(down ? tables.facts->down_units : tables.facts->gate_up_units),
          most_(most),
          ranges_(tables.facts->several == 0) {
        if (!ranges_) {
            next_ = static_cast<int>(blockIdx.x);
            end_ = tables.facts->tiles * units_;
            return;
        }
        next_ = first_strip(static_cast<int>(blockIdx.x));
        end_ = first_strip(static_cast<int>(blockIdx.x) + 1);
    }

    __device__ bool next(WideUnit& unit) {
        if (next_ >= end_) return false;
        const int per_tile = ranges_ ? strips_ : units_;
        while (tables_.tiles[expert_ + 1] * per_tile <= next_) ++expert_;
        const int inside = next_ - tables_.tiles[expert_] * per_tile;
        unit.expert = expert_;
        if (ranges_) {
            unit.first = tables_.begins[expert_];
            unit.rows = tables_.rows(expert_);
            unit.strip = inside;
            unit.strips = min(min(most_, strips_ - inside), end_ - next_);
            next_ += unit.strips;
            return true;
        }
        const int count = tables_.tile_count(expert_);
        const int tile_rows = tables_.tile_rows(expert_);
        const int part = inside / count;
        const int tile = inside - part * count;
        unit.first = tables_.begins[expert_] + tile * tile_rows;
        unit.rows = min(tile_rows, tables_.begins[expert_ + 1] - unit.first);
        unit.strip = static_cast<int>(static_cast<std::int64_t>(strips_) * part / units_);
        unit.strips = static_cast<int>(static_cast<std::int64_t>(strips_) * (part + 1) / units_) - unit.strip;
        next_ += static_cast<int>(gridDim.x);
        return true;
    }

  private:
    /// The first (row tile, strip) whose cost before it reaches the share of the CTAs before `cta`.
    [[nodiscard]] __device__ int first_strip(int cta) const {
        const WideFacts& facts = *tables_.facts;
        const std::int64_t share = static_cast<std::int64_t>(facts.cost) * strips_ * cta / gridDim.x;
        if (cta == static_cast<int>(gridDim.x) || facts.tiles == 0) return facts.tiles * strips_;
        int expert = 0;
        while (static_cast<std::int64_t>(tables_.costs[expert + 1]) * strips_ <= share) ++expert;
        const int cost = tables_.costs[expert + 1] - tables_.costs[expert];
        const auto inside = static_cast<int>(share - static_cast<std::int64_t>(tables_.costs[expert]) * strips_);
        return tables_.tiles[expert] * strips_ + min(strips_, (inside + cost - 1) / cost);
    }

    const WideTables& tables_;
    int strips_;
    int units_;  ///< of a row tile
    int most_;
    bool ranges_;
    int next_;
    int end_;
    int expert_ = 0;
};

}  // namespace tokamak::moe::cuda
