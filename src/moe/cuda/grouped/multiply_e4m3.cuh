// SPDX-License-Identifier: Apache-2.0
// One stage of a unit where weights and rows are e4m3: a warpgroup multiplies its strips with the stage's rows by
// wgmma, both where they lie. The tensor cores keep about 14 bits of such a sum, so the products of 128 columns, which
// share their scales, are added to the unit's sums in f32.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "cuda/ptx/wgmma_8bit.cuh"
#include "moe/cuda/grouped/multiply.cuh"

namespace tokamak::moe::cuda {

/// Products of one strip with all rows, on their way once this returns.
template <int Blocks>
__device__ __forceinline__ void start_products(const std::uint8_t* strip, const std::uint8_t* rows,
                                               float (&products)[Blocks][4]) {
    constexpr int steps = 4;       // of 32 columns
    constexpr int step_units = 2;  // of 16 bytes, in which descriptors count
    const std::uint64_t a = ptx::wgmma_descriptor(strip);
    const std::uint64_t b = ptx::wgmma_descriptor(rows);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < steps; ++step)
        ptx::wgmma_8bit<ptx::E4m3E4m3>(products, a + step * step_units, b + step * step_units, step > 0);
    ptx::wgmma_commit();
}

/// Keeps reads of the products behind the wait before it.
template <int Blocks>
__device__ __forceinline__ void settle_products(float (&products)[Blocks][4]) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
        asm volatile(""
                     : "+f"(products[n][0]), "+f"(products[n][1]), "+f"(products[n][2]),
                       "+f"(products[n][3])::"memory");
}

/// sums += products times the scales of the strip's tile (rows g and g + 8 may have different ones) and of the rows.
template <int First, int Part, int Blocks>
__device__ __forceinline__ void add_scaled(const std::uint8_t* row_scales, float2 tile, int lane,
                                           const float (&products)[Part][4], float (&sums)[Blocks][4]) {
#pragma unroll
    for (int n = 0; n < Part; ++n) {
        const float2 rows = reinterpret_cast<const float2*>(row_scales)[(First + n) * 4 + lane % 4];
        float(&sum)[4] = sums[First + n];
        sum[0] = fmaf(tile.x * rows.x, products[n][0], sum[0]);
        sum[1] = fmaf(tile.x * rows.y, products[n][1], sum[1]);
        sum[2] = fmaf(tile.y * rows.x, products[n][2], sum[2]);
        sum[3] = fmaf(tile.y * rows.y, products[n][3], sum[3]);
    }
}

/// Rows of eight from `First` on: all at once, or in parts, which need fewer registers.
template <class Shape, int First, int Blocks>
__device__ __forceinline__ void multiply_strip(const std::uint8_t* stage, int strip, float2 tile, int lane,
                                               float (&sums)[Blocks][4]) {
    constexpr int part = Blocks > 6 ? 4 : Blocks;
    static_assert(Blocks % part == 0);
    float products[part][4];
    start_products(stage + strip * Shape::Weights::kStripStageBytes, stage + Shape::kRowsOffset + First * 1024,
                   products);
    ptx::wgmma_wait<0>();
    settle_products(products);
    add_scaled<First>(stage + Shape::kRowScalesOffset, tile, lane, products, sums);
    if constexpr (First + part < Blocks) multiply_strip<Shape, First + part>(stage, strip, tile, lane, sums);
}

/// Strips follow one another: while one warpgroup adds, another multiplies. Strips that a unit does not have are
/// multiplied too, whatever their places hold, and not looked at afterwards.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void multiply_e4m3(const std::uint8_t* stage, const Consumer& me, int chunk,
                                              float (&sums)[Strips][Blocks][4]) {
    ptx::fence_shared_async();  // rows were written by ordinary copies
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        const int strip = me.warpgroup + i * Shape::kWarpgroups;
        const float2 tile =
            reinterpret_cast<const float2*>(stage + Shape::kStripScalesOffset + strip * kStripScaleBytes)[chunk % 2];
        multiply_strip<Shape, 0>(stage, strip, tile, me.lane, sums[i]);
    }
}

}  // namespace tokamak::moe::cuda
