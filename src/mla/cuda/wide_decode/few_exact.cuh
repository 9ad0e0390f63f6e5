// SPDX-License-Identifier: Apache-2.0
// As exact.cuh, heads by rows: sixteen heads of a warp by all rows of a block, in the layout of a warpgroup's sums.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/wide_decode/exact.cuh"
#include "mla/cuda/wide_decode/exact_operands.cuh"
#include "mla/cuda/wide_decode/few_shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Where the first scales of a lane's rows are, rows 8 j + 2 (lane % 4) and the next of each tile j; further ones
/// behind.
__device__ __forceinline__ std::uint32_t scales_of_rows(std::uint32_t base, int block, int lane) {
    return base + FewLayout::kScales + (block * kRowBlock + 2 * (lane & 3)) * FewLayout::kScaleBytes;
}
__device__ __forceinline__ float2 row_scales(std::uint32_t scales, int j) {
    float2 of;
    asm volatile("ld.shared.f32 %0, [%2];\n ld.shared.f32 %1, [%2 + 16];"
                 : "=f"(of.x), "=f"(of.y)
                 : "r"(scales + 8 * j * FewLayout::kScaleBytes)
                 : "memory");
    return of;
}

class FewExactScores {
    static constexpr int kTiles = kRowBlock / 8;

  public:
    /// `head`: the first of the lane's two.
    __device__ __forceinline__ FewExactScores(std::uint32_t base, int block, int head, int lane)
        : head_(exact_anew(head)),
          lane_(exact_anew(lane)),
          block_(block),
          base_(exact_anew(base)),
          rows_(exact_anew(base) + FewLayout::kRows + block * FewLayout::kBlockBytes),
          rotary_(exact_anew(base) + FewLayout::kRotary + block % kRotaryPlaces * kSlabBytes) {}

    __device__ __forceinline__ void compute(float (&score)[kTiles][4]) const {
        clear(score);
#pragma unroll 1
        for (int k = 0; k < 4; ++k) add_rotary(k, score);
        std::uint32_t scales = scales_of_rows(base_, block_, lane_);
#pragma unroll 1
        for (int g = 0; g < kCodeSlabs; ++g, scales += sizeof(float)) {
            float sums[kTiles][4];
            clear(sums);
#pragma unroll 1
            for (int i = 0; i < 8; ++i) add_codes(g, i, sums);
#pragma unroll
            for (int j = 0; j < kTiles; ++j) {
                const float2 scale = row_scales(scales, j);
#pragma unroll
                for (int e = 0; e < 4; ++e) score[j][e] = fmaf(sums[j][e], e % 2 == 0 ? scale.x : scale.y, score[j][e]);
            }
        }
    }

  private:
    __device__ __forceinline__ static void clear(float (&sums)[kTiles][4]) {
#pragma unroll
        for (int e = 0; e < 4 * kTiles; ++e) sums[e / 4][e % 4] = 0.0F;
    }

    /// Dimensions [128 slab + 16 i, + 16). A lane has four in a row of them, in any order that both operands share.
    __device__ __forceinline__ void add_codes(int slab, int i, float (&sums)[kTiles][4]) const {
        const std::uint32_t of_heads = base_ + swizzled(head_, i) + lane_ % 4 * 4;
        const std::uint32_t of_rows = rows_ + slab * kSlabBytes + swizzled(lane_ / 4, i) + lane_ % 4 * 4;
        std::uint32_t a[4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const std::uint32_t whole = exact_load(of_heads + high_queries(slab) * kSlabBytes + h * 8 * 128);
            const std::uint32_t rest = exact_load(of_heads + low_queries(slab) * kSlabBytes + h * 8 * 128);
            a[h] = sum_of_halves(first_half(whole), first_half(rest));
            a[2 + h] = sum_of_halves(second_half(whole), second_half(rest));
        }
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const std::uint32_t codes = exact_load(of_rows + j * 8 * 128);
            ptx::mma_m16n8k16_f16(sums[j], a, first_half(codes), second_half(codes), sums[j]);
        }
    }

    /// Rotary dimensions [16 k, 16 k + 16), bf16 as they are.
    __device__ __forceinline__ void add_rotary(int k, float (&sums)[kTiles][4]) const {
        const int chunk = 2 * k + lane_ % 4 / 2;
        const std::uint32_t of_heads = base_ + kRotaryQueries * kSlabBytes + swizzled(head_, chunk) + lane_ % 2 * 8;
        const std::uint32_t of_rows = rotary_ + swizzled(lane_ / 4, chunk) + lane_ % 2 * 8;
        const uint2 low = load_shared_8(of_heads);
        const uint2 high = load_shared_8(of_heads + 8 * 128);
        const std::uint32_t a[4] = {low.x, high.x, low.y, high.y};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const uint2 row = load_shared_8(of_rows + j * 8 * 128);
            ptx::mma_m16n8k16(sums[j], a, row.x, row.y, sums[j]);
        }
    }

    int head_, lane_, block_;
    std::uint32_t base_, rows_, rotary_;
};

}  // namespace tokamak::mla::cuda::wide_decode
