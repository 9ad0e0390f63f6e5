// SPDX-License-Identifier: Apache-2.0
// int4 weights as A fragments of mma.m16n8k16, without a multiply or a subtraction per weight.
//
// A 32-bit word holds the eight codes of a lane for one k16 step (docs/formats.md). A code masked in place is a bf16
// bit pattern with exponent field 0 or 1, where bf16 is linear: bits * 2^-133. So rows g read as code * 2^-133 and rows
// g + 8, whose codes sit four bits higher, as code * 2^-129: five instructions for eight weights. The tensor core takes
// these values exactly. The powers of two go into the activations (times 2^100) and into the group scale, the zero
// point 8 into the initial accumulator: -8 * sum over the group's activations.
#pragma once

#include <cstdint>

namespace tokamak::cuda {

struct Int4Decode {
    static constexpr float kActivationScale = 0x1p100F;
    /// True units over accumulator units: 2^(133 - 100) for rows g, 2^(129 - 100) for rows g + 8.
    static constexpr float kRowScaleLow = 0x1p33F;
    static constexpr float kRowScaleHigh = 0x1p29F;
    /// Initial accumulator for a group's sum of (unscaled) activations: the zero point in those units.
    static constexpr float kZeroPointLow = -8.0F * 0x1p-33F;
    static constexpr float kZeroPointHigh = -8.0F * 0x1p-29F;
    static constexpr bool kHasZeroPoint = true;

    __device__ __forceinline__ static void fragment(std::uint32_t (&a)[4], std::uint32_t word) {
        const std::uint32_t high = word >> 8;
        a[0] = word & 0x000F000FU;
        a[1] = word & 0x00F000F0U;
        a[2] = high & 0x000F000FU;
        a[3] = high & 0x00F000F0U;
    }
};

}  // namespace tokamak::cuda
