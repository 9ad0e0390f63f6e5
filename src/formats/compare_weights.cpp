// SPDX-License-Identifier: Apache-2.0
#include "formats/compare_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/matrix_rows.h"
#include "formats/packed_tile.h"

namespace tokamak::formats {
namespace {

constexpr std::byte kDeadScale{0xFF};

std::int64_t blocks(std::int64_t size) noexcept { return (size - 1) / kFp8Block + 1; }

std::size_t row_bytes(const Tensor& tensor) noexcept {
    return static_cast<std::size_t>(tensor.size(1)) * size_of(tensor.dtype);
}

/// The group of an mxfp4 row that differs, or -1.
std::int64_t differing_group(const std::byte* values, const std::byte* scales, const std::byte* got_values,
                             const std::byte* got_scales, std::int64_t groups) noexcept {
    constexpr std::int64_t bytes = 16;
    for (std::int64_t group = 0; group < groups; ++group) {
        const std::byte* at = got_values + group * bytes;
        const bool dead = scales[group] == kDeadScale;
        const bool zeros = std::all_of(at, at + bytes, [](std::byte b) { return b == std::byte{0}; });
        const bool same =
            dead ? zeros && got_scales[group] == std::byte{0}
                 : std::memcmp(values + group * bytes, at, bytes) == 0 && scales[group] == got_scales[group];
        if (!same) return group;
    }
    return -1;
}

std::optional<std::string> differing_row(const Tensor& tensor, const char* what, const std::byte* source,
                                         std::size_t source_stride, const std::byte* got, std::size_t got_stride) {
    for (std::int64_t row = 0; row < tensor.size(0); ++row, source += source_stride, got += got_stride)
        if (std::memcmp(source, got, row_bytes(tensor)) != 0) return fmt::format("{} in row {}", what, row);
    return std::nullopt;
}

}  // namespace

MatrixMemory::MatrixMemory(const WeightSpec& spec, std::int64_t rows, std::int64_t cols) {
    switch (spec.format) {
        case WeightFormat::bf16: values = OwnedTensor::allocate(DType::bf16, {rows, cols}); break;
        case WeightFormat::fp8_block:
            values = OwnedTensor::allocate(DType::e4m3, {rows, cols});
            scales = OwnedTensor::allocate(DType::f32, {blocks(rows), blocks(cols)});
            break;
        case WeightFormat::int4: values = OwnedTensor::allocate(DType::i32, {rows, cols / 8}); break;
        case WeightFormat::nvfp4: global_scale = OwnedTensor::allocate(DType::f32, {1}); [[fallthrough]];
        case WeightFormat::mxfp4: values = OwnedTensor::allocate(DType::u8, {rows, cols / 2}); break;
    }
    if (is_4bit(spec)) scales = OwnedTensor::allocate(spec.scale_dtype, {rows, cols / spec.group_size});
    matrix = {spec, rows, cols, values, scales, global_scale};
}

std::optional<std::string> difference(const WeightMatrix& source, const WeightMatrix& unpacked) {
    const Rows from = all_rows(source);
    const Rows got = all_rows(unpacked);
    if (source.spec.format == WeightFormat::mxfp4) {
        for (std::int64_t row = 0; row < source.rows; ++row) {
            const auto at = static_cast<std::size_t>(row);
            const std::int64_t group = differing_group(
                from.values + at * from.value_stride, from.scales + at * from.scale_stride,
                got.values + at * got.value_stride, got.scales + at * got.scale_stride, source.cols / 32);
            if (group >= 0) return fmt::format("group {} of row {}", group, row);
        }
        return std::nullopt;
    }
    if (auto found =
            differing_row(source.values, "values", from.values, from.value_stride, got.values, got.value_stride))
        return found;
    if (source.scales)
        if (auto found =
                differing_row(source.scales, "scales", from.scales, from.scale_stride, got.scales, got.scale_stride))
            return found;
    if (source.global_scale && std::memcmp(from.global_scale, got.global_scale, sizeof(float)) != 0)
        return "the global scale";
    return std::nullopt;
}

}  // namespace tokamak::formats
