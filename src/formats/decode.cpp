// SPDX-License-Identifier: Apache-2.0
#include "formats/decode.h"

#include <cstring>

#include "core/check.h"
#include "formats/matrix_rows.h"
#include "formats/packed_tile.h"
#include "formats/scalar.h"

namespace tokamak::formats {
namespace {

void decode_4bit(const WeightMatrix& matrix, const std::byte* values, const std::byte* scales, float* out) {
    const auto& lut = code_values(matrix.spec.format);
    const std::size_t scale_size = size_of(matrix.spec.scale_dtype);
    const int group_bytes = matrix.spec.group_size / 2;
    float* const row = out;
    for (std::int64_t group = 0; group < matrix.cols / matrix.spec.group_size; ++group, scales += scale_size) {
        const float scale = load_scale(matrix.spec, scales);
        for (int i = 0; i < group_bytes; ++i, ++values, out += 2) {
            const auto byte = std::to_integer<std::size_t>(*values);
            out[0] = lut[byte & 15U] * scale;
            out[1] = lut[byte >> 4] * scale;
        }
    }
    if (matrix.spec.format == WeightFormat::nvfp4)
        multiply(row, matrix.cols, load_f32(matrix.global_scale.as<std::byte>()));
}

void decode_fp8(const WeightMatrix& matrix, const std::byte* values, const std::byte* scales, float* out) {
    const auto& lut = e4m3_values();
    float scale = 0.0F;
    for (std::int64_t col = 0; col < matrix.cols; ++col) {
        if (col % kFp8Block == 0)
            scale = load_scale(matrix.spec, scales + col / kFp8Block * std::int64_t{sizeof(float)});
        out[col] = lut[std::to_integer<std::size_t>(values[col])] * scale;
    }
}

}  // namespace

const std::array<float, 16>& code_values(WeightFormat format) noexcept {
    static const auto tables = [] {
        std::array<std::array<float, 16>, 2> result{};
        for (std::uint8_t code = 0; code < 16; ++code) {
            result[0][code] = scalar::int4_to_float(code);
            result[1][code] = scalar::e2m1_to_float(code);
        }
        return result;
    }();
    return tables[format == WeightFormat::int4 ? 0 : 1];
}

const std::array<float, 256>& e4m3_values() noexcept {
    static const auto table = [] {
        std::array<float, 256> result{};
        for (std::size_t code = 0; code < 256; ++code)
            result[code] = scalar::e4m3_to_float(static_cast<std::uint8_t>(code));
        return result;
    }();
    return table;
}

float load_scale(const WeightSpec& spec, const std::byte* bytes) noexcept {
    switch (spec.scale_dtype) {
        case DType::e8m0: return scalar::mxfp4_scale_to_float(std::to_integer<std::uint8_t>(*bytes));
        case DType::f16: {
            std::uint16_t bits = 0;
            std::memcpy(&bits, bytes, sizeof bits);
            return scalar::f16_to_float(bits);
        }
        case DType::e4m3: return scalar::e4m3_to_float(std::to_integer<std::uint8_t>(*bytes));
        case DType::f32: return load_f32(bytes);
        default: return load_bf16(bytes);
    }
}

void decode_row(const WeightMatrix& matrix, std::int64_t row, float* out) {
    constexpr const char* op = "decode_row";
    const Support support = valid(matrix.spec);
    if (!support) invalid("{}: {}", op, support.reason);
    check_matrix(matrix, matrix.spec, matrix.rows, matrix.cols, op, "matrix");
    check::range(op, "row", row, 0, matrix.rows - 1);
    const Rows rows = all_rows(matrix);
    const std::byte* values = rows.values + static_cast<std::size_t>(row) * rows.value_stride;
    const bool block_scales = matrix.spec.format == WeightFormat::fp8_block;
    const auto scale_row = static_cast<std::size_t>(block_scales ? row / kFp8Block : row);
    const std::byte* scales = rows.scales == nullptr ? nullptr : rows.scales + scale_row * rows.scale_stride;
    switch (matrix.spec.format) {
        case WeightFormat::bf16:
            for (std::int64_t col = 0; col < matrix.cols; ++col) out[col] = load_bf16(values + 2 * col);
            return;
        case WeightFormat::fp8_block: return decode_fp8(matrix, values, scales, out);
        case WeightFormat::int4:
        case WeightFormat::mxfp4:
        case WeightFormat::nvfp4: return decode_4bit(matrix, values, scales, out);
    }
}

}  // namespace tokamak::formats
