// SPDX-License-Identifier: Apache-2.0
// 4-bit tiles as bf16 A fragments with their scale multiplied in and rounded once to bf16, as the CPU has them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/decode/int4.cuh"
#include "cuda/decode/mxfp4.cuh"
#include "moe/cuda/routed/stage.cuh"

namespace tokamak::moe::cuda::routed {

__device__ __forceinline__ std::uint32_t bits_of(__nv_bfloat162 pair) {
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ __nv_bfloat162 pair_of(std::uint32_t bits) {
    return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}

/// int4 with bf16 scales. A code masked in place is a bf16 pattern worth code * 2^-133 (rows g) or code * 2^-129 (rows
/// g + 8): one fused multiply-add gives (code - 8) * scale * 2^-33, rounded once.
struct Int4Scale {
    static constexpr float kSumScale = 0x1p33F;
    static constexpr bool kMatrixScale = false;
    __nv_bfloat162 factor[2], offset[2];

    /// From the scales of rows g and g + 8.
    __device__ __forceinline__ void set(std::uint32_t pair) {
        const __nv_bfloat162 low = pair_of(__byte_perm(pair, 0, 0x1010));
        const __nv_bfloat162 high = pair_of(__byte_perm(pair, 0, 0x3232));
        factor[0] = __hmul2(low, __float2bfloat162_rn(0x1p100F));
        factor[1] = __hmul2(high, __float2bfloat162_rn(0x1p96F));
        offset[0] = __hmul2(low, __float2bfloat162_rn(-0x1p-30F));
        offset[1] = __hmul2(high, __float2bfloat162_rn(-0x1p-30F));
    }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], std::uint32_t word) const {
        tokamak::cuda::Int4Decode::fragment(a, word);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = bits_of(__hfma2(pair_of(a[i]), factor[i % 2], offset[i % 2]));
    }
};

/// int4 with f16 scales, which bf16 cannot hold: products in f32.
struct Int4ScaleF16 {
    static constexpr float kSumScale = 1.0F;
    static constexpr bool kMatrixScale = false;
    float scale[2];

    __device__ __forceinline__ void set(std::uint32_t pair) {
        const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
        scale[0] = both.x;
        scale[1] = both.y;
    }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], std::uint32_t word) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const std::uint32_t codes = (word >> 4 * i & 0x000F000FU) | 0x43004300U;  // 128 + code
            const float2 both = __bfloat1622float2(__hsub2(pair_of(codes), __float2bfloat162_rn(136.0F)));
            a[i] = bits_of(__floats2bfloat162_rn(both.x * scale[i % 2], both.y * scale[i % 2]));
        }
    }
};

/// mxfp4: patterns worth value * 2^-126, times 2^(scale + 100). Scales beyond 2^27 would leave bf16 and are held there.
struct Mxfp4Scale {
    static constexpr float kSumScale = 0x1p26F;
    static constexpr bool kMatrixScale = false;
    std::uint32_t factor[2];

    /// From the codes of rows g and g + 8, in the low bytes.
    __device__ __forceinline__ void set(std::uint32_t pair) {
        constexpr std::uint32_t most = 0x009A009AU;
        factor[0] = (min(__byte_perm(pair, 0, 0x4040), most) + 0x00640064U) << 7;
        factor[1] = (min(__byte_perm(pair, 0, 0x4141), most) + 0x00640064U) << 7;
    }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], std::uint32_t word) const {
        tokamak::cuda::Mxfp4Decode::fragment(a, word);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = bits_of(__hmul2(pair_of(a[i]), pair_of(factor[i % 2])));
    }
};

/// nvfp4: the same patterns, times the e4m3 scale and 2^100: exact in bf16. The matrix's scale goes on the sums.
struct Nvfp4Scale {
    static constexpr float kSumScale = 0x1p26F;
    static constexpr bool kMatrixScale = true;
    __nv_bfloat162 factor[2];

    __device__ __forceinline__ void set(std::uint32_t pair) {
        std::uint32_t halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(pair)));
        const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
        factor[0] = __float2bfloat162_rn(both.x * 0x1p100F);
        factor[1] = __float2bfloat162_rn(both.y * 0x1p100F);
    }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], std::uint32_t word) const {
        tokamak::cuda::Mxfp4Decode::fragment(a, word);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = bits_of(__hmul2(pair_of(a[i]), factor[i % 2]));
    }
};

/// Group: weights that share a scale, ScaleBytes: of one scale.
template <class Scale, int Group, int ScaleBytes>
struct Weights4Bit {
    static constexpr int kTileCols = Group > 64 ? Group : 64;
    static constexpr int kGroups = kTileCols / Group;
    static constexpr int kCodeBytes = kStripRows * kTileCols / 2;
    static constexpr int kTileBytes = kCodeBytes + (kStripRows * kGroups * ScaleBytes + 127) / 128 * 128;
    static constexpr int kMostBlocks = kTileCols > 64 ? 2 : 4;
    static constexpr int kStages = 3;
    static constexpr float kSumScale = Scale::kSumScale;
    static constexpr bool kStripScales = false;
    static constexpr bool kMatrixScale = Scale::kMatrixScale;
    using Stage = StageLayout<Weights4Bit>;

    template <int Blocks>
    __device__ __forceinline__ static void multiply(const std::uint8_t* stage, int lane, float (&sums)[4][Blocks][4]) {
        constexpr int steps_of_group = Group / 16;
#pragma unroll
        for (int block = 0; block < kTileCols / 64; ++block) {
            std::uint32_t b[2][Blocks][4];
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) load_rows<Stage>(b[pair], stage, block, pair, lane);
#pragma unroll
            for (int slab = 0; slab < 4; ++slab) {
                const uint4 four = *reinterpret_cast<const uint4*>(stage + block * 2048 + slab * 512 + lane * 16);
                const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
                Scale scale;
#pragma unroll
                for (int step = 0; step < 4; ++step) {
                    const int at = block * 4 + step;
                    if (at % steps_of_group == 0 || step == 0)
                        scale.set(scale_pair(stage, slab * 8 + lane / 4, at / steps_of_group));
                    std::uint32_t a[4];
                    scale.fragment(a, words[step]);
#pragma unroll
                    for (int n = 0; n < Blocks; ++n)
                        ptx::mma_m16n8k16(sums[slab][n], a, b[step / 2][n][step % 2 * 2],
                                          b[step / 2][n][step % 2 * 2 + 1], sums[slab][n]);
                }
            }
        }
    }

  private:
    __device__ __forceinline__ static std::uint32_t scale_pair(const std::uint8_t* stage, int row, int group) {
        const int index = row * kGroups + group;
        if constexpr (ScaleBytes == 2)
            return reinterpret_cast<const std::uint32_t*>(stage + kCodeBytes)[index];
        else
            return reinterpret_cast<const std::uint16_t*>(stage + kCodeBytes)[index];
    }
};

}  // namespace tokamak::moe::cuda::routed
