// SPDX-License-Identifier: Apache-2.0
// Quantised rows in the order and form in which the ring takes them: for each row tile, for each 128 columns, its rows
// of 128 codes, swizzled as wgmma reads them, then their scales. So a stage's rows are one bulk copy.
#pragma once

#include <cstdint>

#include "moe/cuda/tile_rows.cuh"
#include "moe/cuda/wide/results.cuh"

namespace tokamak::moe::cuda {

/// Where the scale of a row lies among those of a tile: as the lanes of a warp add them, four in one load, two of an
/// eight of rows and two of the next.
__device__ __forceinline__ int wide_scale_place(int row) {
    return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2;
}

/// Rows of one tile: `first` is the place of its first row in the list.
struct WideTileCodes {
    static constexpr int kRoom = 192;  ///< of a row's group, of a tile with one row: its codes and 16 scales

    std::uint8_t* base;
    int rows;

    __device__ WideTileCodes(void* all, int first, int count, int groups)
        : base(static_cast<std::uint8_t*>(all) + static_cast<std::int64_t>(first) * groups * kRoom), rows(count) {}
    /// Codes and scales of all rows.
    [[nodiscard]] __device__ __forceinline__ int group_bytes() const { return rows * 128 + (rows + 15) / 16 * 64; }
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* group(int number) const {
        return base + static_cast<std::int64_t>(number) * group_bytes();
    }
    /// The 8 codes of a row that hold columns 8 * eight to 8 * eight + 7 of a group.
    [[nodiscard]] __device__ __forceinline__ uint2* codes(int row, int number, int eight) const {
        return reinterpret_cast<uint2*>(group(number) + row * 128 + ((eight / 2 ^ row % 8) << 4) + eight % 2 * 8);
    }
    [[nodiscard]] __device__ __forceinline__ float* scale(int row, int number) const {
        return reinterpret_cast<float*>(group(number) + rows * 128) + wide_scale_place(row);
    }
};

}  // namespace tokamak::moe::cuda
