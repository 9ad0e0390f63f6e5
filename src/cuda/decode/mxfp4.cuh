// SPDX-License-Identifier: Apache-2.0
// mxfp4 weights as A fragments of mma.m16n8k16, without a multiply per weight.
//
// The packed word holds the bits of eight e2m1 codes permuted (docs/formats.md) so that masks and shifts give bf16 bit
// patterns worth value * 2^-126: eleven instructions for eight weights. The tensor core takes bf16 subnormals exactly; the
// power of two goes into the activations (times 2^100) and into the group scale.
#pragma once

#include <cstdint>

namespace tokamak::cuda {

struct Mxfp4Decode {
    static constexpr float kActivationScale = 0x1p100F;
    static constexpr float kRowScaleLow = 0x1p26F;
    static constexpr float kRowScaleHigh = 0x1p26F;
    static constexpr bool kHasZeroPoint = false;

    __device__ __forceinline__ static void fragment(std::uint32_t (&a)[4], std::uint32_t word) {
        constexpr std::uint32_t mask = 0x81C081C0U;
        a[0] = word & mask;
        a[1] = (word << 3) & mask;
        a[2] = (word << 6) & mask;
        a[3] = ((word << 1) & 0x80008000U) | ((word >> 3) & 0x01800180U) | ((word >> 7) & 0x00400040U);
    }

    /// 2^(code - 127); code 0 as 0 (its products are below every f32 sum's rounding) and 0xFF as 0, as the format has it.
    __device__ __forceinline__ static float scale(std::uint32_t code) {
        return code == 0xFFU ? 0.0F : __uint_as_float(code << 23);
    }
};

}  // namespace tokamak::cuda
