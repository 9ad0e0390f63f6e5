// SPDX-License-Identifier: Apache-2.0
// The sums of a unit where weights and rows are e4m3, both from shared memory. The tensor cores keep about 14 bits of
// such a sum, so the products of 128 columns, which share their scales, are added to the sums in f32, one strip's while
// the other's are made.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/ptx/wgmma_8bit.cuh"
#include "moe/cuda/wide/multiply.cuh"

namespace tokamak::moe::cuda {

/// Where a consumer finds the stages of a unit: as shared addresses, for a stage's pointer costs the latency of a
/// special register; and as descriptors, which are made before the stage is there. Those of a shuffle are in uniform
/// registers, and additions to one as 64 bits stay there.
template <class Shape>
class WideE4m3Stages {
  public:
    /// Bytes from a stage's weights and from its rows to the operands of the caller's warpgroup.
    __device__ __forceinline__ WideE4m3Stages(WideStages<Shape>& stages, int weights, int rows)
        : stages_(stages),
          memory_(ptx::shared_address(stages.ring.memory)),
          full_(ptx::shared_address(stages.ring.full)),
          weights_(ptx::wgmma_tile_word(memory_) + static_cast<std::uint32_t>(weights) / 16),
          rows_(ptx::wgmma_tile_word(memory_ + Shape::kRowsOffset) + static_cast<std::uint32_t>(rows) / 16) {
        asm volatile("" : "+r"(memory_));  // or it is made once more in each stage
    }
    /// Waits for the next stage; its address.
    __device__ __forceinline__ std::uint32_t await() {
        const auto slot = static_cast<std::uint32_t>(stages_.place.slot);
        constexpr std::uint32_t words = Shape::kStageBytes / 16;
        weights_word = __shfl_sync(0xFFFFFFFFU, weights_ + slot * words, 0);
        rows_word = __shfl_sync(0xFFFFFFFFU, rows_ + slot * words, 0);
        weights = ptx::wgmma_step(weights_word, 0);
        rows = ptx::wgmma_step(rows_word, 0);
        ptx::barrier_wait(full_ + slot * 8, stages_.place.parity);
        return memory_ + slot * Shape::kStageBytes;
    }
    __device__ __forceinline__ void release() { stages_.release(stages_.advance()); }

    std::uint64_t weights = 0;  ///< descriptors of the stage that was awaited
    std::uint64_t rows = 0;
    std::uint32_t weights_word = 0;  ///< their low words
    std::uint32_t rows_word = 0;

  private:
    WideStages<Shape>& stages_;
    std::uint32_t memory_;
    std::uint32_t full_;
    std::uint32_t weights_;
    std::uint32_t rows_;
};

__device__ __forceinline__ float load_shared(std::uint32_t address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}
__device__ __forceinline__ float2 load_shared_two(std::uint32_t address) {
    float2 value;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "r"(address) : "memory");
    return value;
}
__device__ __forceinline__ float4 load_shared_four(std::uint32_t address) {
    float4 value;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(address)
                 : "memory");
    return value;
}

/// Scales of a strip's tile. Converted weights have those of their rows for all columns (row_scales.cuh).
template <class Shape>
__device__ __forceinline__ float2 tile_scales(std::uint32_t address) {
    if constexpr (Shape::kConverted)
        return {1.0F, 1.0F};
    else
        return load_shared_two(address);
}

/// Of products whose first operand are weights. Converted ones are e5m2.
template <class Shape>
using StripTypes = std::conditional_t<Shape::kConverted, ptx::E5m2E4m3, ptx::E4m3E4m3>;

/// Has a strip's tile multiplied with the rows of a stage, by descriptors; or rows with weights.
template <typename Types, int Eights>
__device__ __forceinline__ void multiply_tile(std::uint64_t strip, std::uint64_t rows, float (&products)[Eights][4]) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        const auto words = static_cast<std::uint64_t>(step) * 2;
        ptx::wgmma_8bit<Types>(products, strip + words, rows + words, step > 0);
    }
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
/// at a shared address as wide_scale_place says.
template <int Eights>
__device__ __forceinline__ void add_products(std::uint32_t row_scales, float2 tile, const float (&products)[Eights][4],
                                             float (&sums)[Eights][4]) {
#pragma unroll
    for (int n = 0; n < Eights; n += 2) {
        const float4 rows = load_shared_four(row_scales + static_cast<std::uint32_t>(n) * 32);
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
    const std::uint32_t scale_offset =
        Shape::kRowsOffset + static_cast<std::uint32_t>(rows) * 128 + static_cast<std::uint32_t>(stages.lane) % 4 * 16;
    const std::uint32_t tile_offset = Shape::kStripScalesOffset + static_cast<std::uint32_t>(first) * kWideScaleBytes;
    WideE4m3Stages<Shape> own(stages, first * strip_bytes, 0);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const std::uint32_t stage = own.await();
        float2 tiles[2];
        float products[2][Eights][4];
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < 2; ++i)
            multiply_tile<StripTypes<Shape>>(own.weights + static_cast<std::uint64_t>(i) * (strip_bytes / 16), own.rows,
                                             products[i]);
#pragma unroll
        for (int i = 0; i < 2; ++i)
            tiles[i] = tile_scales<Shape>(stage + tile_offset + static_cast<std::uint32_t>(i * kWideScaleBytes) +
                                          static_cast<std::uint32_t>(chunk) % 2 * 8);
        await_products<1>(products[0]);
        add_products(stage + scale_offset, tiles[0], products[0], sums[0]);
        await_products<0>(products[1]);
        add_products(stage + scale_offset, tiles[1], products[1], sums[1]);
        own.release();
    }
}

}  // namespace tokamak::moe::cuda
