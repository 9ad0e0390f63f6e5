// SPDX-License-Identifier: Apache-2.0
// The sums of a unit with many e4m3 rows: rows are the first operand, 64 for each warpgroup, and the unit's strips the
// second. A lane then holds two rows, so that products of 64 registers are scaled by eight numbers, where weights as
// the first operand ask for one number each.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// Of two strips for the rows of a warpgroup: eights of weight rows, as wgmma leaves them.
using WideTallSums = float[16][4];

/// Products of 64 rows with two strips; they are there when this returns.
__device__ __forceinline__ void multiply_tall(std::uint32_t rows, std::uint32_t strips, WideTallSums& products) {
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
        ptx::wgmma_e4m3(products, ptx::wgmma_step(rows, step), ptx::wgmma_step(strips, step), step > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int n = 0; n < 16; ++n)  // reads stay behind the wait
        asm volatile(""
                     : "+f"(products[n][0]), "+f"(products[n][1]), "+f"(products[n][2]),
                       "+f"(products[n][3])::"memory");
}

/// sums += products times the scales of two strips (of rows g and g + 8 of each 16: every other eight) and of two rows.
__device__ __forceinline__ void add_tall(const float2 (&strips)[2], const float (&rows)[2],
                                         const WideTallSums& products, WideTallSums& sums) {
#pragma unroll
    for (int n = 0; n < 16; ++n) {
        const float strip = n % 2 == 0 ? strips[n / 8].x : strips[n / 8].y;
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = fmaf(strip * rows[i / 2], products[n][i], sums[n][i]);
    }
}

/// Four strips; what lies in the place of strips or rows that a unit does not have is multiplied too.
template <class Shape>
__device__ __forceinline__ void multiply_unit_tall(WideStages<Shape>& stages, const WideConsumer& me, int chunks,
                                                   int unit_rows, WideTallSums (&sums)[2]) {
    static_assert(Shape::kStrips == 4 && Shape::kMostRows == 128);
    constexpr int strip_bytes = Shape::Weights::kStripStageBytes;
    const int row = me.warpgroup * 64 + me.slab * 16 + me.lane / 4;
    const int scale_offset = Shape::kRowsOffset + unit_rows * 128 + wide_scale_place(row) * 4;
    const std::uint32_t slab_word = static_cast<std::uint32_t>(me.warpgroup) * (64 * 128 / 16);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const std::uint8_t* const stage = stages.await();
        const std::uint32_t rows = rows_word<Shape>(stage) + slab_word;
        const std::uint32_t strips = __shfl_sync(0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stage)), 0);
        const auto* const scales = reinterpret_cast<const float*>(stage + scale_offset);
        const float own[2] = {scales[0], scales[2]};  // row + 8 lies there
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float2 tiles[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                tiles[i] = reinterpret_cast<const float2*>(stage + Shape::kStripScalesOffset +
                                                           (half * 2 + i) * kWideScaleBytes)[chunk % 2];
            WideTallSums products;
            multiply_tall(rows, strips + static_cast<std::uint32_t>(half) * (2 * strip_bytes / 16), products);
            add_tall(tiles, own, products, sums[half]);
        }
        stages.release(stages.advance());
    }
}

}  // namespace tokamak::moe::cuda
