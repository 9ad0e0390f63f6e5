// SPDX-License-Identifier: Apache-2.0
// The sums of a unit where weights and rows are e4m3, both from shared memory. The tensor cores keep about 14 bits of
// such a sum, so the products of 128 columns, which share their scales, are added to the sums in f32, one strip's while
// the other's are made.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_e4m3.cuh"
#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// Has a strip's tile multiplied with the rows of a stage.
template <int Eights>
__device__ __forceinline__ void multiply_tile(std::uint32_t strip, std::uint32_t rows, float (&products)[Eights][4]) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
        ptx::wgmma_e4m3(products, ptx::wgmma_step(strip, step), ptx::wgmma_step(rows, step), step > 0);
    ptx::wgmma_commit();
}

/// Products are there; reads of them stay behind this.
template <int Pending, int Eights>
__device__ __forceinline__ void await_products(float (&products)[Eights][4]) {
    ptx::wgmma_wait<Pending>();
#pragma unroll
    for (int n = 0; n < Eights; ++n)
        asm volatile(""
                     : "+f"(products[n][0]), "+f"(products[n][1]), "+f"(products[n][2]),
                       "+f"(products[n][3])::"memory");
}

/// sums += products times the scales of the tile (rows g and g + 8 may have different ones) and of the rows, which lie
/// as wide_scale_place says.
template <int Eights>
__device__ __forceinline__ void add_products(const float4* row_scales, float2 tile, const float (&products)[Eights][4],
                                             float (&sums)[Eights][4]) {
#pragma unroll
    for (int n = 0; n < Eights; n += 2) {
        const float4 rows = row_scales[n * 2];
        const float own[2][2] = {{rows.x, rows.y}, {rows.z, rows.w}};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float(&sum)[4] = sums[n + i];
            sum[0] = fmaf(tile.x * own[i][0], products[n + i][0], sum[0]);
            sum[1] = fmaf(tile.x * own[i][1], products[n + i][1], sum[1]);
            sum[2] = fmaf(tile.y * own[i][0], products[n + i][2], sum[2]);
            sum[3] = fmaf(tile.y * own[i][1], products[n + i][3], sum[3]);
        }
    }
}

/// Two strips of a warpgroup; what lies in the place of strips that a unit does not have is multiplied too.
template <class Shape, int Eights>
__device__ __forceinline__ void multiply_unit_e4m3(WideStages<Shape>& stages, int first, int chunks, int rows,
                                                   float (&sums)[2][Eights][4]) {
    static_assert(Eights % 2 == 0);
    constexpr int strip_bytes = Shape::Weights::kStripStageBytes;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const std::uint8_t* const stage = stages.await();
        const std::uint32_t row_word = rows_word<Shape>(stage);
        const std::uint32_t strip_word =
            __shfl_sync(0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stage + first * strip_bytes)), 0);
        const auto* const row_scales =
            reinterpret_cast<const float4*>(stage + Shape::kRowsOffset + rows * 128) + stages.lane % 4;
        float2 tiles[2];
        float products[2][Eights][4];
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            tiles[i] = reinterpret_cast<const float2*>(stage + Shape::kStripScalesOffset +
                                                       (first + i) * kWideScaleBytes)[chunk % 2];
            multiply_tile(strip_word + static_cast<std::uint32_t>(i) * (strip_bytes / 16), row_word, products[i]);
        }
        await_products<1>(products[0]);
        add_products(row_scales, tiles[0], products[0], sums[0]);
        await_products<0>(products[1]);
        add_products(row_scales, tiles[1], products[1], sums[1]);
        stages.release(stages.advance());
    }
}

}  // namespace tokamak::moe::cuda
