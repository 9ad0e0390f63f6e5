// SPDX-License-Identifier: Apache-2.0
// Rows of a tensor as plain numbers, and back. One rounding at most.
#pragma once

#include <cstdint>

#include "formats/scalar.h"
#include "tokamak/tensor.h"

namespace tokamak::mla::cpu {

/// Reads `count` bf16, f16 or f32 elements from element `offset` on; out[i * step].
template <class Real>
void load_row(const Tensor& tensor, std::int64_t offset, std::int64_t count, Real* out, std::int64_t step = 1) {
    switch (tensor.dtype) {
        case DType::bf16: {
            const auto* const bits = tensor.as<std::uint16_t>() + offset;
            for (std::int64_t i = 0; i < count; ++i) out[i * step] = scalar::bf16_to_float(bits[i]);
            return;
        }
        case DType::f16: {
            const auto* const bits = tensor.as<std::uint16_t>() + offset;
            for (std::int64_t i = 0; i < count; ++i) out[i * step] = scalar::f16_to_float(bits[i]);
            return;
        }
        default: {
            const auto* const values = tensor.as<float>() + offset;
            for (std::int64_t i = 0; i < count; ++i) out[i * step] = values[i];
            return;
        }
    }
}

/// Writes `count` values as bf16, f16, f32 or f64 from element `offset` on.
template <class Real>
void store_row(const Real* values, std::int64_t count, const Tensor& tensor, std::int64_t offset) {
    switch (tensor.dtype) {
        case DType::bf16: {
            auto* const bits = tensor.as<std::uint16_t>() + offset;
            for (std::int64_t i = 0; i < count; ++i) bits[i] = scalar::float_to_bf16(static_cast<float>(values[i]));
            return;
        }
        case DType::f16: {
            auto* const bits = tensor.as<std::uint16_t>() + offset;
            for (std::int64_t i = 0; i < count; ++i) bits[i] = scalar::float_to_f16(static_cast<float>(values[i]));
            return;
        }
        case DType::f64: {
            auto* const out = tensor.as<double>() + offset;
            for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<double>(values[i]);
            return;
        }
        default: {
            auto* const out = tensor.as<float>() + offset;
            for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(values[i]);
            return;
        }
    }
}

}  // namespace tokamak::mla::cpu
