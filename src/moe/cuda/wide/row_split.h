// SPDX-License-Identifier: Apache-2.0
// How an expert's rows are shared by its row tiles. Pure functions of the host and the device.
#pragma once

#if defined(__CUDACC__)
#define TOKAMAK_WIDE_ANYWHERE __host__ __device__
#else
#define TOKAMAK_WIDE_ANYWHERE
#endif

namespace tokamak::moe::cuda {

/// Row tiles of an expert: as few as hold its rows.
TOKAMAK_WIDE_ANYWHERE constexpr int wide_tile_count(int rows, int most) { return (rows + most - 1) / most; }

/// The tiles share the rows in whole steps, as evenly as these allow; longer ones come first. So they are multiplied
/// as no more rows than the expert's, rounded up to a step.
struct WideRowSplit {
    int rows;     ///< of the expert
    int step;     ///< what widths of tiles are multiples of
    int shorter;  ///< rows of a shorter tile
    int longer;   ///< tiles that have a step more

    TOKAMAK_WIDE_ANYWHERE constexpr WideRowSplit(int rows_, int tiles, int step_)
        : rows(rows_), step(step_), shorter(0), longer(0) {
        const int steps = (rows + step - 1) / step;
        shorter = steps / tiles * step;
        longer = steps - steps / tiles * tiles;
    }
    /// The first row of a tile.
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int first(int tile) const {
        return tile * shorter + (tile < longer ? tile : longer) * step;
    }
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int rows_of(int tile) const {
        const int most = shorter + (tile < longer ? step : 0);
        const int left = rows - first(tile);
        return left < most ? left : most;
    }
    /// The tile that has a row.
    [[nodiscard]] TOKAMAK_WIDE_ANYWHERE constexpr int tile_of(int row) const {
        const int in_longer = longer * (shorter + step);
        return row < in_longer ? row / (shorter + step) : longer + (row - in_longer) / shorter;
    }
};

#undef TOKAMAK_WIDE_ANYWHERE

}  // namespace tokamak::moe::cuda
