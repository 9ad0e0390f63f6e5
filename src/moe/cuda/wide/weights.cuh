// SPDX-License-Identifier: Apache-2.0
// What the wide kernel asks of a weight format:
//   kStageBlocks, kTileBlocks   blocks of 64 columns in a stage and in a packed tile
//   kTileBytes, kStripStageBytes
//   kFromShared                 a tile is an operand as it lies in shared memory; otherwise
//   Slab                        a warp's 16 rows x 64 columns: load(strip, block, slab, lane), fragment(a, step)
//   kQuantized                  rows are e4m3 with a scale for each 128 columns; strips end with scales of tiles
//   kSumScale                   true units of a sum
//   kGlobalScales               strips end with two scales, for rows g and g + 8 of each 16
//   kStripCost                  reading and converting, where a column of the matrix unit costs 1
#pragma once

#include <cuda_fp16.h>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {

/// e4m3 with e4m3 rows.
struct WideE4m3 {
    static constexpr int kStageBlocks = 2;
    static constexpr int kTileBlocks = 2;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr bool kFromShared = true;
    static constexpr bool kQuantized = true;
    static constexpr bool kGlobalScales = false;
    static constexpr float kSumScale = 1.0F;
    static constexpr int kStripCost = 400;
};

struct WideBf16 {
    static constexpr int kStageBlocks = 1;
    static constexpr int kTileBlocks = 1;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr bool kFromShared = true;
    static constexpr bool kQuantized = false;
    static constexpr bool kGlobalScales = false;
    static constexpr float kSumScale = 1.0F;
    static constexpr int kStripCost = 400;
};

template <class Weights>
struct Wide4Bit : Weights {
    static constexpr bool kFromShared = false;
    static constexpr bool kQuantized = false;
    static constexpr bool kGlobalScales = false;
    static constexpr int kStripCost = 72;
};

/// nvfp4: patterns worth value * 2^-126, times scale * 2^100, which is exact in bf16. Every step has its scale.
struct WideNvfp4 : Tiles4Bit<64, 2304> {
    static constexpr bool kFromShared = false;
    static constexpr bool kQuantized = false;
    static constexpr bool kGlobalScales = true;
    static constexpr int kStripCost = 84;
    static constexpr float kSumScale = 0x1p26F;

    struct Slab {
        uint4 words;
        uint2 scales;

        __device__ __forceinline__ void load(const std::uint8_t* strip, int block, int slab, int lane) {
            words = codes(strip, block, slab, lane);
            scales = *reinterpret_cast<const uint2*>(strip + block * kTileBytes + 2048 + (slab * 8 + lane / 4) * 8);
        }
        __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int step) const {
            const std::uint32_t word = step < 2 ? (step == 0 ? words.x : words.y) : (step == 2 ? words.z : words.w);
            const std::uint32_t pair = (step < 2 ? scales.x : scales.y) >> (step % 2 * 16);
            std::uint32_t halves;
            asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}" : "=r"(halves) : "r"(pair));
            const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
            const __nv_bfloat162 factors =
                __hmul2(__floats2bfloat162_rn(both.x, both.y), __float2bfloat162_rn(0x1p100F));
            const std::uint32_t low = __byte_perm(bits_of(factors), 0, 0x1010);
            const std::uint32_t high = __byte_perm(bits_of(factors), 0, 0x3232);
            tokamak::cuda::Mxfp4Decode::fragment(a, word);
            a[0] = multiply_pairs(a[0], low);
            a[1] = multiply_pairs(a[1], high);
            a[2] = multiply_pairs(a[2], low);
            a[3] = multiply_pairs(a[3], high);
        }
    };
};

}  // namespace tokamak::moe::cuda
