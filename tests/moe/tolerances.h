// SPDX-License-Identifier: Apache-2.0
// How far a result may lie from the reference in double, for every weight format and accumulation. These are bounds,
// not guesses: each rounding is charged to the magnitude it acts on, which the reference computes beside the value.
#pragma once

#include <cmath>

#include "moe/values.h"
#include "tokamak/weight_format.h"

namespace tokamak::moe::test {

/// How products are summed: the oracle's way, and the one of everything else (also of matrix units with f32 sums).
enum class Accumulation : std::uint8_t { f64, f32 };

struct Tolerance {
    double activations = 0;  ///< relative error of what lies between two GEMMs
    double sums = 0;         ///< relative to the sum of the absolute values of the terms
    double out = 0;          ///< relative error of the stored result
};

/// Where a value may lie.
struct Expected {
    double value = 0;
    double activation_magnitude = 0;  ///< sum over |w| |a| |W2|
    double sum_magnitude = 0;         ///< the same with what an error in the first sums does to `a`
};

inline double allowed(const Tolerance& tolerance, const Expected& expected) {
    constexpr double smallest_f16 = 0x1p-25;  // half of the smallest subnormal: relative bounds end there
    return tolerance.activations * expected.activation_magnitude + tolerance.sums * expected.sum_magnitude +
           tolerance.out * std::fabs(expected.value) + (tolerance.out > 0x1p-20 ? smallest_f16 : 0x1p-120);
}

struct Rounding {
    DType act_dtype = DType::bf16;
    DType out_dtype = DType::bf16;
    bool input_weighted = false;  ///< the routing weight rounds the input rows
    bool quantized = false;       ///< e4m3 activations
};

inline Tolerance tolerance_for(const WeightSpec& spec, Accumulation accumulation, const Rounding& rounding) {
    Tolerance tolerance;
    tolerance.out = 1.01 * unit_roundoff(rounding.out_dtype);
    if (accumulation == Accumulation::f64) {
        tolerance.sums = 0x1p-44;  // a few hundred terms in double on both sides
        return tolerance;
    }
    // Terms in sequence (at most 512 columns in 16 lanes, a tree, the slots) and a few roundings of the activation.
    tolerance.sums = 64 * 0x1p-24;
    const double act = unit_roundoff(rounding.act_dtype);
    switch (spec.format) {
        case WeightFormat::bf16:       // exact operands
        case WeightFormat::nvfp4:      // exact in 16 bits but for the global scale, which is applied in f32
        case WeightFormat::fp8_block:  // scaled in f32, one more rounding
            break;
        case WeightFormat::mxfp4:  // exact in 16 bits; e4m3 times its scale is not
            if (rounding.quantized) tolerance.sums += act;
            break;
        case WeightFormat::int4: tolerance.sums += 2 * act; break;  // 16-bit operands meet 16-bit activations
    }
    if (rounding.input_weighted) tolerance.sums += act;
    tolerance.activations = act;
    if (rounding.quantized) {
        // A value near the border of two e4m3 codes may fall on either side of it: half a step of 2^-3 and a bit.
        tolerance.activations = 0x1p-3;
        if (rounding.input_weighted) tolerance.sums += 0x1p-3;
    }
    return tolerance;
}

}  // namespace tokamak::moe::test
