// SPDX-License-Identifier: Apache-2.0
// 4-bit weights and e4m3 rows as 16-bit operands: a row's codes times their scale, rounded once more, to bf16. Few rows
// wait for weights, and these are read as they are packed, where converting them to 8 bits for the whole grid takes
// three times as long.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"

namespace tokamak::moe::cuda {

/// What two codes, one above the other, are worth as a pair of bf16.
__device__ __forceinline__ std::uint32_t rounded_pair(std::uint32_t codes, float low_scale, float high_scale) {
    std::uint32_t halves;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}" : "=r"(halves) : "r"(codes));
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    const __nv_bfloat162 pair = __floats2bfloat162_rn(both.x * low_scale, both.y * high_scale);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// Four times 256 neighbouring columns of a row, eight of a lane each, so that 16 lanes hold the 128 of a scale. By a
/// whole warp. Weighted: times a weight, columns behind the row's end, which has `cols`, are zeros all the same.
template <bool Weighted>
class WideRounding {
  public:
    __device__ __forceinline__ WideRounding(int first_col, int cols, float weight)
        : lane_(static_cast<int>(threadIdx.x) % 32), left_(cols - first_col - lane_ * 8), weight_(weight) {}

    __device__ __forceinline__ void round(uint4 (&bits)[4]) const {
        const auto own = tokamak::cuda::E4m3Scale::of(largest(bits));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int from = lane_ / 16 * 16 + i;
            const float scale = __shfl_sync(0xFFFFFFFFU, own.scale, from);
            const tokamak::cuda::E4m3Scale by{scale, __shfl_sync(0xFFFFFFFFU, own.inverse, from),
                                              scale < INFINITY ? scale : 0.0F};
            std::uint32_t pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                pairs[j] = rounded_pair(tokamak::cuda::e4m3_codes(by.divide(value(bits[i], i, j * 2)),
                                                                  by.divide(value(bits[i], i, j * 2 + 1))),
                                        scale, scale);
            bits[i] = {pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ float value(const uint4& bits, int load, int i) const {
        const std::uint32_t word = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
        const float exact = __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
        if constexpr (!Weighted) return exact;
        return load * 256 < left_ ? exact * weight_ : 0.0F;
    }
    /// A NaN does not count. Magnitudes in bf16 compare as pairs.
    [[nodiscard]] __device__ __forceinline__ float largest_of(const uint4& bits, int load) const {
        if constexpr (Weighted) {
            float most = 0.0F;
#pragma unroll
            for (int i = 0; i < 8; ++i) most = tokamak::cuda::larger_magnitude(most, value(bits, load, i));
            return most;
        } else {
            const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
            std::uint32_t most = 0;
#pragma unroll
            for (const std::uint32_t word : words) asm("max.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(word & 0x7FFF7FFFU));
            return fmaxf(__uint_as_float(most << 16), __uint_as_float(most & 0xFFFF0000U));
        }
    }
    /// Over 16 lanes, of load l % 4 in lane l: four numbers with five exchanges.
    [[nodiscard]] __device__ __forceinline__ float largest(const uint4 (&bits)[4]) const {
        float own[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) own[i] = largest_of(bits[i], i);
        const bool odd = lane_ % 2 != 0;
        const bool upper = lane_ % 4 >= 2;
        float kept[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            kept[i] = fmaxf(odd ? own[i * 2 + 1] : own[i * 2],
                            __shfl_xor_sync(0xFFFFFFFFU, odd ? own[i * 2] : own[i * 2 + 1], 1));
        float most = fmaxf(upper ? kept[1] : kept[0], __shfl_xor_sync(0xFFFFFFFFU, upper ? kept[0] : kept[1], 2));
#pragma unroll
        for (int distance = 4; distance < 16; distance *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, distance));
        return most;
    }

    int lane_;
    int left_;  ///< columns from the lane's first one on
    float weight_;
};

}  // namespace tokamak::moe::cuda
