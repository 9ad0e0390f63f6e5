// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/row_lists.cuh"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct Unit {
    RowTile tile;
    int strip;
    int strips;

    /// Rows in whole eights.
    [[nodiscard]] __device__ int width() const { return (tile.rows + 7) / 8 * 8; }
};

/// The (row tile, strip) pairs of a phase are numbered tile by tile; a CTA takes a contiguous range of them, and from
/// it up to `most` strips at a time.
class UnitWalk {
  public:
    __device__ UnitWalk(const RowLists& lists, const DecodeMatrix& matrix, int most)
        : lists_(lists), strips_(matrix.strips), most_(most) {
        const std::int64_t total = static_cast<std::int64_t>(lists.tile_count()) * matrix.strips;
        const std::int64_t first = total * blockIdx.x / gridDim.x;
        left_ = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x - first);
        tile_ = static_cast<int>(first / matrix.strips);
        strip_ = static_cast<int>(first % matrix.strips);
    }

    __device__ bool next(Unit& unit) {
        if (left_ == 0) return false;
        const int strips = min(min(most_, strips_ - strip_), left_);
        unit = {lists_.tiles[tile_], strip_, strips};
        left_ -= strips;
        strip_ += strips;
        if (strip_ == strips_) {
            strip_ = 0;
            ++tile_;
        }
        return true;
    }

  private:
    const RowLists& lists_;
    int strips_;
    int most_;
    int left_;
    int tile_;
    int strip_;
};

}  // namespace tokamak::moe::cuda
