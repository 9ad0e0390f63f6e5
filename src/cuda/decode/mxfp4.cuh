// SPDX-License-Identifier: Apache-2.0
// mxfp4 weights as A fragments of mma.m16n8k16, without a multiply per weight.
//
// The packed word holds the bits of eight e2m1 codes permuted (docs/formats.md) so that masks and shifts give bf16 bit
// patterns worth value * 2^-126: nine instructions for eight weights. The tensor core takes bf16 subnormals exactly;
// the power of two goes into the activations (times 2^100) and into the group scale.
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
        a[1] = (word << 6) & mask;
        a[2] = __funnelshift_l(word, word, 10) & mask;
        a[3] = ((word << 4) & 0x81808180U) | ((word >> 4) & 0x00400040U);
    }

    /// The four scales 2^(code - 127) of a word; code 0 counts as 0: 2^-127 times anything is below every sum's
    /// rounding. Code 0xFF does not occur: packing turns such a group, which is worth 0, into zero codes with scale
    /// code 0.
    __device__ __forceinline__ static void scales(std::uint32_t codes, float (&s)[4]) {
        s[0] = __uint_as_float((codes & 0xFFU) << 23);
        s[1] = __uint_as_float((codes & 0xFF00U) << 15);
        s[2] = __uint_as_float((codes << 7) & 0x7F800000U);
        s[3] = __uint_as_float((codes >> 1) & 0x7F800000U);
    }
};

}  // namespace tokamak::cuda
