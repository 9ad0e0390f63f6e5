// SPDX-License-Identifier: Apache-2.0
// What happens between the GEMMs to one value: clamps, gate and quantisation. NaN goes through everything.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "formats/scalar.h"
#include "tokamak/moe/fused_moe.h"

namespace tokamak::moe::cpu {

// std::min and std::max drop a NaN in their second argument; these keep one in `value`.
template <class Acc>
Acc at_most(Acc value, Acc limit) noexcept {
    return value > limit ? limit : value;
}
template <class Acc>
Acc at_least(Acc value, Acc limit) noexcept {
    return value < limit ? limit : value;
}

/// gate * sigmoid(alpha * gate), with its limit 0 where the sigmoid underflows: -inf * 0 is not a number.
template <class Acc>
Acc gated(Acc gate, Acc alpha) noexcept {
    const Acc sigmoid = Acc{1} / (Acc{1} + std::exp(-alpha * gate));
    return sigmoid == Acc{0} ? Acc{0} : gate * sigmoid;
}

template <class Acc>
Acc activate(const Activation& activation, Acc gate, Acc up) noexcept {
    const bool clamped = activation.kind != ActivationKind::swiglu && activation.limit > 0;
    if (clamped) {
        const Acc limit = activation.limit;
        gate = at_most(gate, limit);
        up = at_least(at_most(up, limit), -limit);
    }
    if (activation.kind == ActivationKind::gpt_oss) return (up + Acc{1}) * gated(gate, Acc{activation.alpha});
    return gated(gate, Acc{1}) * up;
}

/// Replaces a row by what its e4m3 codes and f32 scales stand for: one scale, the largest magnitude over 448, for every
/// 128 columns.
template <class Acc>
void quantize_row(Acc* row, std::int64_t cols) noexcept {
    constexpr std::int64_t kGroup = 128;
    for (std::int64_t begin = 0; begin < cols; begin += kGroup) {
        Acc* const group = row + begin;
        const std::int64_t count = std::min(kGroup, cols - begin);
        float largest = 1e-10F;
        for (std::int64_t i = 0; i < count; ++i) {
            const float magnitude = std::fabs(static_cast<float>(group[i]));
            if (magnitude > largest) largest = magnitude;
        }
        const float scale = largest / 448.0F;
        for (std::int64_t i = 0; i < count; ++i) {
            const float code = static_cast<float>(group[i]) / scale;
            group[i] = Acc{scalar::e4m3_to_float(scalar::float_to_e4m3(code))} * Acc{scale};
        }
    }
}

}  // namespace tokamak::moe::cpu
