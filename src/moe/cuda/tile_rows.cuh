// SPDX-License-Identifier: Apache-2.0
// Rows of a row tile in the form of the ring, in the workspace, so that a stage's rows are one or two bulk copies; and
// how many parts of them are there, so that readers need no barrier of the grid.
#pragma once

#include <cstdint>

namespace tokamak::moe::cuda {

/// For each 64 columns the tile's rows of 128 bytes, swizzled as wgmma reads them. `first` is the place of its first
/// row in the list of routes.
struct TileRows {
    std::uint8_t* base;
    int rows;

    __device__ TileRows(void* all, int first, int count, int padded_cols)
        : base(static_cast<std::uint8_t*>(all) + static_cast<std::int64_t>(first) * padded_cols * 2), rows(count) {}
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* block(int number) const {
        return base + static_cast<std::int64_t>(number) * rows * 128;
    }
    /// The 16 bytes of a row that hold columns 8 * eight to 8 * eight + 7.
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* place(int row, int eight) const {
        return block(eight / 8) + row * 128 + ((eight % 8 ^ row % 8) << 4);
    }
};

/// For each row tile the parts of its intermediate that are finished.
struct TileCounts {
    std::int32_t* counts;

    /// By all threads of the grid.
    __device__ void clear(int tiles) const {
        for (int tile = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); tile < tiles;
             tile += static_cast<int>(gridDim.x * blockDim.x))
            counts[tile] = 0;
    }
    __device__ void add(int tile) const {
        asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counts + tile) : "memory");
    }
    __device__ void await(int tile, int parts) const {
        int count = 0;
        while (count < parts)
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counts + tile) : "memory");
    }
};

}  // namespace tokamak::moe::cuda
