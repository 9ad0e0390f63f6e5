// SPDX-License-Identifier: Apache-2.0
// Elements of tensors as the accumulator type of a computation, and back with one rounding.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "formats/scalar.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cpu {

/// Narrows to f32 so that a further rounding gives what a direct one would: an inexact result gets an odd last bit.
inline float narrow_for_rounding(double value) noexcept {
    const auto nearest = static_cast<float>(value);
    if (!std::isfinite(nearest) || static_cast<double>(nearest) == value) return nearest;
    auto bits = std::bit_cast<std::uint32_t>(nearest);
    if ((bits & 1U) != 0) return nearest;
    const bool too_large = std::fabs(static_cast<double>(nearest)) > std::fabs(value);
    bits = too_large ? bits - 1 : bits + 1;
    return std::bit_cast<float>(bits);
}
inline float narrow_for_rounding(float value) noexcept { return value; }

template <class Acc>
Acc load_element(const void* data, DType dtype, std::int64_t index) noexcept {
    switch (dtype) {
        case DType::bf16: return scalar::bf16_to_float(static_cast<const std::uint16_t*>(data)[index]);
        case DType::f16: return scalar::f16_to_float(static_cast<const std::uint16_t*>(data)[index]);
        case DType::f64: return static_cast<Acc>(static_cast<const double*>(data)[index]);
        default: return static_cast<const float*>(data)[index];
    }
}

template <class Acc>
void store_element(void* data, DType dtype, std::int64_t index, Acc value) noexcept {
    switch (dtype) {
        case DType::bf16:
            static_cast<std::uint16_t*>(data)[index] = scalar::float_to_bf16(narrow_for_rounding(value));
            return;
        case DType::f16:
            static_cast<std::uint16_t*>(data)[index] = scalar::float_to_f16(narrow_for_rounding(value));
            return;
        case DType::f64: static_cast<double*>(data)[index] = value; return;
        default: static_cast<float*>(data)[index] = static_cast<float>(value); return;
    }
}

template <class Acc>
void load_elements(const void* data, DType dtype, std::int64_t begin, std::int64_t count, Acc* out) noexcept {
    for (std::int64_t i = 0; i < count; ++i) out[i] = load_element<Acc>(data, dtype, begin + i);
}

/// Rounds a value to an activation type and back.
inline float round_to(DType dtype, float value) noexcept {
    switch (dtype) {
        case DType::bf16: return scalar::round_to_bf16(value);
        case DType::f16: return scalar::f16_to_float(scalar::float_to_f16(value));
        default: return value;
    }
}

/// An i32 or i64 id.
inline std::int64_t load_id(const Tensor& ids, std::int64_t row, std::int64_t column) noexcept {
    const std::int64_t index = row * ids.stride(0) + column;
    return ids.dtype == DType::i64 ? ids.as<std::int64_t>()[index] : ids.as<std::int32_t>()[index];
}

/// Start of row `row` of a tensor whose rows may be strided, as an element index.
inline std::int64_t row_begin(const Tensor& tensor, std::int64_t row) noexcept { return row * tensor.stride(0); }

}  // namespace tokamak::moe::cpu
