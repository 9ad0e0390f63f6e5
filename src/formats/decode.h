// SPDX-License-Identifier: Apache-2.0
// Weights to float, straight from checkpoint layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/scalar.h"
#include "tokamak/weight_format.h"

namespace tokamak::formats {

/// Decodes row `row` of a checkpoint matrix: `matrix.cols` floats, each code times scale in f32. Throws
/// `invalid_argument` for a matrix whose tensors do not fit it or a row outside.
void decode_row(const WeightMatrix& matrix, std::int64_t row, float* out);

/// Value of each 4-bit code before its scale.
const std::array<float, 16>& code_values(WeightFormat format) noexcept;
/// Value of each e4m3 code.
const std::array<float, 256>& e4m3_values() noexcept;
/// The scale at `bytes` (possibly unaligned) of a format's scale type.
float load_scale(const WeightSpec& spec, const std::byte* bytes) noexcept;
/// The bf16 at `bytes` (possibly unaligned). Inline, or loops over it would not be vectorised.
inline float load_bf16(const std::byte* bytes) noexcept {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes, sizeof bits);
    return scalar::bf16_to_float(bits);
}

/// The f32 at `bytes` (possibly unaligned).
inline float load_f32(const std::byte* bytes) noexcept {
    float value = 0.0F;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}
inline void multiply(float* values, std::int64_t count, float factor) noexcept {
    for (std::int64_t i = 0; i < count; ++i) values[i] *= factor;
}

}  // namespace tokamak::formats
