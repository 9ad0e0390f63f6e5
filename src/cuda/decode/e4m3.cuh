// SPDX-License-Identifier: Apache-2.0
// e4m3: to 16-bit operands of the matrix units, and from numbers with one scale for every 128 columns.
#pragma once

#include <cstdint>

namespace tokamak::cuda {

/// Columns that share an activation scale.
inline constexpr int kE4m3Group = 128;

/// bf16 bit patterns of four codes, worth value * 2^-120: subnormal codes come out right, the NaN codes as 480. Pairs
/// of every second code, because one shift serves both halves of a register.
struct E4m3Moved {
    std::uint32_t even;  ///< codes 0 and 2
    std::uint32_t odd;   ///< codes 1 and 3
};

__device__ __forceinline__ E4m3Moved e4m3_moved(std::uint32_t four) {
    constexpr std::uint32_t magnitude = 0x07F007F0U;
    constexpr std::uint32_t sign = 0x80008000U;
    return {((four << 4) & magnitude) | ((four << 8) & sign), ((four >> 4) & magnitude) | (four & sign)};
}

/// f16 values of four codes, exact, NaN kept: one conversion for two codes.
__device__ __forceinline__ void e4m3_to_f16(std::uint32_t four, std::uint32_t& low, std::uint32_t& high) {
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %2;\n cvt.rn.f16x2.e4m3x2 %0, l;\n cvt.rn.f16x2.e4m3x2 %1, h;\n}"
        : "=r"(low), "=r"(high)
        : "r"(four));
}

/// Codes of two numbers: to nearest, ties to even, saturating; NaN stays NaN.
__device__ __forceinline__ std::uint32_t e4m3_codes(float low, float high) {
    std::uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    return codes;
}

/// The larger magnitude; a NaN does not count.
__device__ __forceinline__ float larger_magnitude(float largest, float value) { return fmaxf(largest, fabsf(value)); }

/// Scale of a group from its largest magnitude: the larger of that and 1e-10, over 448; and what division by it needs.
struct E4m3Scale {
    float scale;
    float inverse;
    float divisor;  ///< the scale, but 0 in place of infinity: a finite value over that is 0

    __device__ __forceinline__ static E4m3Scale of(float largest) {
        constexpr E4m3Scale by_448 = {0.0F, 0x1.24924ap-9F, 448.0F};
        const bool finite = largest < INFINITY;
        const float scale = finite ? by_448.divide(fmaxf(largest, 1e-10F)) : INFINITY;
        return {scale, __frcp_rn(scale), finite ? scale : 0.0F};
    }

    /// value / scale, rounded once: a quotient from the reciprocal is corrected by its remainder (Markstein).
    [[nodiscard]] __device__ __forceinline__ float divide(float value) const {
        const float quotient = value * inverse;
        return fmaf(fmaf(-quotient, divisor, value), inverse, quotient);
    }
};

/// Codes of four numbers in ascending bytes.
__device__ __forceinline__ std::uint32_t e4m3_quantized(const E4m3Scale& scale, const float (&values)[4]) {
    return e4m3_codes(scale.divide(values[0]), scale.divide(values[1])) |
           e4m3_codes(scale.divide(values[2]), scale.divide(values[3])) << 16;
}

}  // namespace tokamak::cuda
