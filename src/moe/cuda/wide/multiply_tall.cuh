// SPDX-License-Identifier: Apache-2.0
// The sums of a unit with many e4m3 rows: rows are the first operand, 64 for each warpgroup, and the unit's strips the
// second. A lane then holds two rows, so that products of 64 registers are scaled by eight numbers, where weights as
// the first operand ask for one number each.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_8bit.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/multiply_e4m3.cuh"

namespace tokamak::moe::cuda {

/// Of two strips for the rows of a warpgroup: eights of weight rows, as wgmma leaves them.
using WideTallSums = float[16][4];

/// Products of 64 rows with two strips, by descriptors; they are there when this returns.
template <bool Converted>
__device__ __forceinline__ void multiply_tall(std::uint64_t rows, std::uint64_t strips, WideTallSums& products) {
    ptx::wgmma_fence();
    multiply_tile<std::conditional_t<Converted, ptx::E4m3E5m2, ptx::E4m3E4m3>>(rows, strips, products);
    await_products<0>(products);
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

/// Sums of the rows behind the 128th, 16 at most, with a warpgroup's two strips, which are the first operand there.
using WideExtraSums = float[2][2][4];

/// Four strips; what lies in the place of strips or rows that a unit does not have is multiplied too. Extra: also rows
/// behind the 128th, so that weights are not read once more for a few of them.
template <class Shape, bool Extra>
__device__ __forceinline__ void multiply_unit_tall(WideStages<Shape>& stages, const WideConsumer& me, int chunks,
                                                   int unit_rows, WideTallSums (&sums)[2], WideExtraSums& more) {
    static_assert(Shape::kStrips == 4 && Shape::kTallRows == 128);
    constexpr int strip_bytes = Shape::Weights::kStripStageBytes;
    const int row = me.warpgroup * 64 + me.slab * 16 + me.lane / 4;
    const auto scale_offset =
        static_cast<std::uint32_t>(Shape::kRowsOffset + unit_rows * 128 + wide_scale_place(row) * 4);
    [[maybe_unused]] const std::uint32_t more_offset =
        static_cast<std::uint32_t>(Shape::kRowsOffset + unit_rows * 128 + Shape::kTallRows * 4 + me.lane % 4 * 16);
    WideE4m3Stages<Shape> own(stages, 0, me.warpgroup * 64 * 128);
    [[maybe_unused]] const auto more_weights = static_cast<std::uint32_t>(me.warpgroup * 2 * strip_bytes / 16);
    [[maybe_unused]] const auto more_rows = static_cast<std::uint32_t>((2 - me.warpgroup) * 64 * 128 / 16);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const std::uint32_t stage = own.await();
        const std::uint32_t scales = stage + scale_offset;
        const float rows[2] = {load_shared(scales), load_shared(scales + 8)};  // row + 8 lies there
        const std::uint32_t tiles_of = stage + Shape::kStripScalesOffset + static_cast<std::uint32_t>(chunk) % 2 * 8;
        if constexpr (Extra) {
            const std::uint64_t strips =
                ptx::wgmma_step(__shfl_sync(0xFFFFFFFFU, own.weights_word + more_weights, 0), 0);
            const std::uint64_t behind = ptx::wgmma_step(__shfl_sync(0xFFFFFFFFU, own.rows_word + more_rows, 0), 0);
            float2 tiles[2];
            float products[2][2][4];
            ptx::wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                multiply_tile<StripTypes<Shape>>(strips + static_cast<std::uint64_t>(i) * (strip_bytes / 16), behind,
                                                 products[i]);
                tiles[i] =
                    tile_scales<Shape>(tiles_of + static_cast<std::uint32_t>((me.warpgroup * 2 + i) * kWideScaleBytes));
            }
            await_products<0>(products[0]);
            await_products<0>(products[1]);
#pragma unroll
            for (int i = 0; i < 2; ++i) add_products(stage + more_offset, tiles[i], products[i], more[i]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float2 tiles[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                tiles[i] = tile_scales<Shape>(tiles_of + static_cast<std::uint32_t>((half * 2 + i) * kWideScaleBytes));
            WideTallSums products;
            multiply_tall<Shape::kConverted>(
                own.rows, own.weights + static_cast<std::uint64_t>(half) * (2 * strip_bytes / 16), products);
            add_tall(tiles, rows, products, sums[half]);
        }
        own.release();
    }
}

}  // namespace tokamak::moe::cuda
