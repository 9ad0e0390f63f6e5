// SPDX-License-Identifier: Apache-2.0
// How an expert's rows are shared by its row tiles. Pure functions of the host and the device.
#pragma once

#if defined(__CUDACC__)
#define TOKAMAK_WIDE_ANYWHERE __host__ __device__
#else
#define TOKAMAK_WIDE_ANYWHERE
#endif

namespace tokamak::moe::cuda {

/// Row tiles of an expert: as few as hold its rows. Of an odd number of whole tiles the last one, which has no other to
/// go with, may have up to `extra` rows more; one of a pair would keep the other waiting.
TOKAMAK_WIDE_ANYWHERE constexpr int wide_tile_count(int rows, int most, int extra = 0) {
    const int whole = rows / most;
    return whole % 2 != 0 && rows - whole * most <= extra ? whole : (rows + most - 1) / most;
}

/// The tiles share the rows in whole steps, as evenly as these allow; longer ones come first. So they are multiplied
/// as no more rows than the expert's, rounded up to a step.
struct WideRowSplit {
    int rows;     ///< of the expert
    int step;     ///< what widths of tiles are multiples of
    int shorter;  ///< rows of a shorter tile
    int longer;   ///< tiles that have a step more
    int last;     ///< tile, which has what is left

    /// Extra: a step is a whole tile, and the last one may have so many rows more.
    TOKAMAK_WIDE_ANYWHERE constexpr WideRowSplit(int rows_, int tiles, int step_, int extra = 0)
        : rows(rows_), step(step_), shorter(0), longer(0), last(tiles - 1) {
        const int steps = extra > 0 ? tiles : (rows + step - 1) / step;
        shorter = steps / tiles * step;
        longer = steps - steps / tiles * tiles;
    }
    /// The first row of a tile.
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int first(int tile) const {
        return tile * shorter + (tile < longer ? tile : longer) * step;
    }
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int rows_of(int tile) const {
        return tile == last ? rows - first(tile) : shorter + (tile < longer ? step : 0);
    }
    /// The tile that has a row.
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int tile_of(int row) const {
        const int in_longer = longer * (shorter + step);
        const int tile = row < in_longer ? row / (shorter + step) : longer + (row - in_longer) / shorter;
        return tile < last ? tile : last;
    }
};

#undef TOKAMAK_WIDE_ANYWHERE

}  // namespace tokamak::moe::cuda
