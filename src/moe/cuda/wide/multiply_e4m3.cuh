// SPDX-License-Identifier: Apache-2.0
// The sums of a unit where weights and rows are e4m3, both from shared memory. The tensor cores keep about 14 bits of
// such a sum, so the products of 128 columns, which share their scales, are added to the sums in f32, one strip's while
// the other warpgroup's are made.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_e4m3.cuh"
#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// The warpgroups take turns in having a strip multiplied, so that one adds while the matrix unit works for the other.
struct WideTurns {
    static constexpr int kFirstBarrier = 2;
    static constexpr int kThreads = 256;

    /// The first turn is the first warpgroup's. By the other one.
    __device__ static void begin() { pass(1); }
    __device__ static void await(int warpgroup) { ptx::named_barrier(kFirstBarrier + warpgroup, kThreads); }
    __device__ static void pass(int warpgroup) {
        asm volatile("barrier.cta.arrive %0, %1;" ::"r"(kFirstBarrier + 1 - warpgroup), "n"(kThreads) : "memory");
    }
};

/// Products of a strip's tile with the rows of a stage.
template <int Eights>
__device__ __forceinline__ void multiply_tile(int warpgroup, std::uint32_t strip, std::uint32_t rows,
                                              float (&products)[Eights][4]) {
    WideTurns::await(warpgroup);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
        ptx::wgmma_e4m3(products, ptx::wgmma_step(strip, step), ptx::wgmma_step(rows, step), step > 0);
    ptx::wgmma_commit();
    WideTurns::pass(warpgroup);
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int n = 0; n < Eights; ++n)  // reads stay behind the wait
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
__device__ __forceinline__ void multiply_unit_e4m3(WideStages<Shape>& stages, const WideConsumer& me, int first,
                                                   int chunks, int rows, float (&sums)[2][Eights][4]) {
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
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float2 tile = reinterpret_cast<const float2*>(stage + Shape::kStripScalesOffset +
                                                                (first + i) * kWideScaleBytes)[chunk % 2];
            float products[Eights][4];
            multiply_tile(me.warpgroup, strip_word + static_cast<std::uint32_t>(i) * (strip_bytes / 16), row_word,
                          products);
            add_products(row_scales, tile, products, sums[i]);
        }
        stages.release(stages.advance());
    }
}

}  // namespace tokamak::moe::cuda
