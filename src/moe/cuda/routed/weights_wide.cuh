// SPDX-License-Identifier: Apache-2.0
// 8- and 16-bit tiles: 64 rows of 128 bytes under the 128-byte swizzle.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "moe/cuda/routed/stage.cuh"

namespace tokamak::moe::cuda::routed {

/// Rows g (matrices 0, 2) and g + 8 (1, 3) of a slab, chunks `chunk` (0, 1) and `chunk + 1` (2, 3).
__device__ __forceinline__ void load_slab(std::uint32_t (&a)[4], const std::uint8_t* tile, int slab, int chunk,
                                          int lane) {
    const int row = slab * 16 + lane % 16;
    ptx::load_matrix_x4(a, ptx::shared_address(tile + row * 128 + (((chunk + lane / 16) ^ (row % 8)) << 4)));
}

struct WeightsBf16 {
    static constexpr int kTileCols = 64;
    static constexpr int kTileBytes = 8192;
    static constexpr int kMostBlocks = 4;
    static constexpr int kStages = 2;
    static constexpr float kSumScale = 1.0F;
    static constexpr bool kStripScales = false;
    static constexpr bool kMatrixScale = false;
    using Stage = StageLayout<WeightsBf16>;

    template <int Blocks>
    __device__ __forceinline__ static void multiply(const std::uint8_t* stage, int lane, float (&sums)[4][Blocks][4]) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            std::uint32_t b[Blocks][4];
            load_rows<Stage>(b, stage, 0, pair, lane);
#pragma unroll
            for (int slab = 0; slab < 4; ++slab)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    std::uint32_t a[4];
                    load_slab(a, stage, slab, pair * 4 + half * 2, lane);
#pragma unroll
                    for (int n = 0; n < Blocks; ++n)
                        ptx::mma_m16n8k16(sums[slab][n], a, b[n][half * 2], b[n][half * 2 + 1], sums[slab][n]);
                }
        }
    }
};

/// e4m3: a tile is one block of scales, which go on its sums. ldmatrix hands a lane columns 4t to 4t + 3 of 16, so the
/// products of a step run over the columns in that order, and the activations are read to match.
struct WeightsFp8 {
    static constexpr int kTileCols = 128;
    static constexpr int kTileBytes = 8192;
    static constexpr int kMostBlocks = 2;
    static constexpr int kStages = 2;
    static constexpr float kSumScale = 1.0F;
    static constexpr bool kStripScales = true;
    static constexpr bool kMatrixScale = false;
    using Stage = StageLayout<WeightsFp8>;

    template <int Blocks>
    __device__ __forceinline__ static void multiply(const std::uint8_t* stage, int lane, float (&sums)[4][Blocks][4]) {
        uint2 b[8][Blocks];
#pragma unroll
        for (int step = 0; step < 8; ++step)
#pragma unroll
            for (int n = 0; n < Blocks; ++n)
                b[step][n] = *reinterpret_cast<const uint2*>(
                    stage + Stage::chunk_offset(n * 8 + lane / 4, step * 2 + lane % 4 / 2) + lane % 2 * 8);
        const float2 scale = *reinterpret_cast<const float2*>(stage + Stage::kScalesOffset);
#pragma unroll
        for (int slab = 0; slab < 4; ++slab) {
            float c[Blocks][4] = {};
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                std::uint32_t codes[4];
                load_slab(codes, stage, slab, two * 2, lane);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    std::uint32_t a[4];
                    widen(codes[2 * i], a[0], a[2]);
                    widen(codes[2 * i + 1], a[1], a[3]);
#pragma unroll
                    for (int n = 0; n < Blocks; ++n)
                        ptx::mma_m16n8k16(c[n], a, b[two * 2 + i][n].x, b[two * 2 + i][n].y, c[n]);
                }
            }
#pragma unroll
            for (int n = 0; n < Blocks; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    sums[slab][n][i] = fmaf(i < 2 ? scale.x : scale.y, c[n][i], sums[slab][n][i]);
        }
    }

  private:
    /// Four e4m3 codes as two pairs of bf16, exactly, NaN too.
    __device__ __forceinline__ static void widen(std::uint32_t codes, std::uint32_t& low, std::uint32_t& high) {
        low = widen_pair(static_cast<std::uint16_t>(codes));
        high = widen_pair(static_cast<std::uint16_t>(codes >> 16));
    }
    __device__ __forceinline__ static std::uint32_t widen_pair(std::uint16_t codes) {
        std::uint32_t halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
        const __nv_bfloat162 pair = __float22bfloat162_rn(__half22float2(*reinterpret_cast<const __half2*>(&halves)));
        return *reinterpret_cast<const std::uint32_t*>(&pair);
    }
};

}  // namespace tokamak::moe::cuda::routed
