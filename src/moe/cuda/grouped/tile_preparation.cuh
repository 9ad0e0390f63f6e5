// SPDX-License-Identifier: Apache-2.0
// Before 4-bit weights that wgmma multiplies: the rows of x in the form of the ring (TileRows), so that one thread
// copies a stage's rows.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/grouped/prepare.cuh"
#include "moe/cuda/tile_rows.cuh"

namespace tokamak::moe::cuda {

/// Columns of rows in a stage's form: whole stages.
__device__ __forceinline__ int staged_cols(int cols) { return (cols + 127) / 128 * 128; }

/// Brings the rows of x that experts here take into the ring's form, and zeros behind the columns of the intermediate.
/// By all warps of the grid, once the lists are there; complete after the grid's next barrier.
class TilePreparation {
    static constexpr int kLoads = 8;  ///< of a lane at once

  public:
    __device__ TilePreparation(const GroupedArgs& args, const RowLists& lists, const RowSource& source)
        : args_(args), lists_(lists), source_(source), lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ void run() const {
        const int tiles = lists_.tile_count();
        if (tiles == 0) return;
        const int eights = staged_cols(source_.cols) / 8;
        const int parts = (eights + 32 * kLoads - 1) / (32 * kLoads);
        const int warps = static_cast<int>(blockDim.x) / 32;
        const int rows = lists_.tiles[tiles - 1].first + lists_.tiles[tiles - 1].rows;
        const int step = static_cast<int>(gridDim.x) * warps;
        for (int job = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32; job < rows * parts;
             job += step) {
            const int place = job / parts;
            const int part = job - place * parts;
            const RowTile& tile = tile_of(place, tiles);
            copy(TileRows(args_.prepared_rows, tile.first, tile.rows, eights * 8), place, place - tile.first,
                 part * 32 * kLoads + lane_, eights);
            if (part == 0)
                clear(TileRows(args_.intermediate, tile.first, tile.rows, staged_cols(args_.down.cols)),
                      place - tile.first);
        }
    }

  private:
    [[nodiscard]] __device__ const RowTile& tile_of(int place, int tiles) const {
        int low = 0;
        while (tiles - low > 1) {
            const int middle = (low + tiles) / 2;
            (lists_.tiles[middle].first <= place ? low : tiles) = middle;
        }
        return lists_.tiles[low];
    }
    __device__ __forceinline__ void copy(const TileRows& to, int place, int row, int eight, int eights) const {
        const int route = lists_.list[place];
        const std::int64_t begin = source_.begin(route);
        uint4 values[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
            if (eight + i * 32 < eights) {
                const int col = (eight + i * 32) * 8;
                values[i] = source_.load_bits(begin + col, source_.cols - col);
            }
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
            if (eight + i * 32 < eights)
                *reinterpret_cast<uint4*>(to.place(row, eight + i * 32)) = weighed(values[i], route);
    }
    [[nodiscard]] __device__ __forceinline__ uint4 weighed(const uint4& bits, int route) const {
        if (source_.weights.data == nullptr) return bits;
        float values[8];
        RowSource::unpack(values, bits);
        source_.weigh(values, route, true);
        return {bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]), bf16_pair(values[4], values[5]),
                bf16_pair(values[6], values[7])};
    }
    /// Whole eights; the end of a unit writes the others.
    __device__ __forceinline__ void clear(const TileRows& rows, int row) const {
        const int eight = args_.down.cols / 8 + lane_;  // at most 127 columns of padding
        if (eight < staged_cols(args_.down.cols) / 8) *reinterpret_cast<uint4*>(rows.place(row, eight)) = {0, 0, 0, 0};
    }

    const GroupedArgs& args_;
    const RowLists& lists_;
    const RowSource source_;
    int lane_;
};

}  // namespace tokamak::moe::cuda
