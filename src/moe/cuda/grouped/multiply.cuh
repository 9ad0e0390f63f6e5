// SPDX-License-Identifier: Apache-2.0
// One stage of a unit: a warp multiplies its slab of 16 rows of each of its strips with the stage's rows, by
// mma.m16n8k16. The four warps of a warpgroup hold the four slabs of a strip.
#pragma once

#include <cstdint>

#include "cuda/ptx/mma.cuh"
#include "moe/cuda/grouped/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Place of a consumer warp.
struct Consumer {
    int warpgroup;
    int slab;
    int lane;

    __device__ explicit Consumer(int warp)
        : warpgroup(warp / 4), slab(warp % 4), lane(static_cast<int>(threadIdx.x) % 32) {}
};

/// B fragments of 32 columns: b[n] for rows 8n to 8n + 7, two registers for each step of 16 columns.
template <int Blocks>
__device__ __forceinline__ void load_rows_fragment(std::uint32_t (&b)[Blocks][4], std::uint32_t rows, int pair,
                                                   int lane) {
    const std::uint32_t row = static_cast<std::uint32_t>(lane % 8);
    const std::uint32_t chunk = (static_cast<std::uint32_t>(pair * 4 + lane / 8) ^ row) << 4;
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
        ptx::load_matrix_x4(b[n], rows + (static_cast<std::uint32_t>(n) * 8 + row) * 128 + chunk);
}

/// sums[i][n] += the slab of the warp's i-th strip times rows 8n to 8n + 7, over `Count` blocks of 64 columns.
template <class Shape, int Count, int Strips, int Blocks>
__device__ __forceinline__ void multiply_blocks(const std::uint8_t* stage, const Consumer& me,
                                                float (&sums)[Strips][Blocks][4]) {
    using Weights = typename Shape::Weights;
    const std::uint8_t* const strips = stage + me.warpgroup * Weights::kStripStageBytes;
    const std::uint32_t rows = ptx::shared_address(stage + Shape::kRowsOffset);
    typename Weights::Slab slabs[Count][Strips];
#pragma unroll
    for (int block = 0; block < Count; ++block)
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            slabs[block][i].load(strips + i * Shape::kWarpgroups * Weights::kStripStageBytes, block, me.slab, me.lane);
#pragma unroll
    for (int pair = 0; pair < Count * 2; ++pair) {
        std::uint32_t b[Blocks][4];
        load_rows_fragment(b, rows + pair / 2 * Shape::kRowBlockBytes, pair % 2, me.lane);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < Strips; ++i) {
                std::uint32_t a[4];
                slabs[pair / 2][i].fragment(a, pair % 2 * 2 + half);
#pragma unroll
                for (int n = 0; n < Blocks; ++n) Weights::multiply(sums[i][n], a, b[n][half * 2], b[n][half * 2 + 1]);
            }
    }
}

/// A stage whose products have scales: those of the strips' tile, and of the rows if they are quantised.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void multiply_scaled(const std::uint8_t* stage, const Consumer& me, int chunk,
                                                float (&sums)[Strips][Blocks][4]) {
    float products[Strips][Blocks][4] = {};
    multiply_blocks<Shape, Shape::Weights::kStageBlocks>(stage, me, products);
    float2 rows[Blocks];
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
        if constexpr (Shape::Weights::kForm == RowForm::quantized)
            rows[n] = reinterpret_cast<const float2*>(stage + Shape::kRowScalesOffset)[n * 4 + me.lane % 4];
        else
            rows[n] = {1.0F, 1.0F};
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        const float2 tile = reinterpret_cast<const float2*>(
            stage + Shape::kStripScalesOffset + (me.warpgroup + i * Shape::kWarpgroups) * kStripScaleBytes)[chunk % 2];
#pragma unroll
        for (int n = 0; n < Blocks; ++n) {
            sums[i][n][0] = fmaf(tile.x * rows[n].x, products[i][n][0], sums[i][n][0]);
            sums[i][n][1] = fmaf(tile.x * rows[n].y, products[i][n][1], sums[i][n][1]);
            sums[i][n][2] = fmaf(tile.y * rows[n].x, products[i][n][2], sums[i][n][2]);
            sums[i][n][3] = fmaf(tile.y * rows[n].y, products[i][n][3], sums[i][n][3]);
        }
    }
}

/// Stage `chunk` of a unit, with `left` blocks of 64 columns to come.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void multiply_stage(const std::uint8_t* stage, const Consumer& me, int chunk, int left,
                                               float (&sums)[Strips][Blocks][4]) {
    constexpr int stage_blocks = Shape::Weights::kStageBlocks;
    if constexpr (Shape::Weights::kStripScales)
        multiply_scaled<Shape>(stage, me, chunk, sums);
    else if (left >= stage_blocks)
        multiply_blocks<Shape, stage_blocks>(stage, me, sums);
    else
        multiply_blocks<Shape, 1>(stage, me, sums);
}

}  // namespace tokamak::moe::cuda
