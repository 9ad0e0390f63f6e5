// SPDX-License-Identifier: Apache-2.0
#include "formats/matrix_rows.h"

#include <string>

#include "core/check.h"
#include "core/throw.h"
#include "formats/packed_tile.h"

namespace tokamak::formats {
namespace {

std::int64_t blocks(std::int64_t size) noexcept { return (size - 1) / kFp8Block + 1; }

const char* order_name(RowOrder order) noexcept {
    switch (order) {
        case RowOrder::plain: return "plain";
        case RowOrder::gate_up_concatenated: return "gate_up_concatenated";
        case RowOrder::gate_up_interleaved: return "gate_up_interleaved";
    }
    return "unknown";
}

Rows rows_from(const Rows& rows, std::int64_t first, std::int64_t count, std::int64_t scale_row) noexcept {
    Rows part = rows;
    part.values += static_cast<std::size_t>(first) * rows.value_stride;
    if (part.scales != nullptr) part.scales += static_cast<std::size_t>(scale_row) * rows.scale_stride;
    part.count = count;
    return part;
}

Halves split_concatenated(const PackedLayout& layout, const Rows& rows, const char* op) {
    const std::int64_t intermediate = layout.rows / 2;
    std::int64_t up_scale_row = intermediate;
    if (layout.spec.format == WeightFormat::fp8_block) {
        if (intermediate % kFp8Block != 0)
            invalid(
                "{}: fp8_block with {} gate rows, expected a multiple of {} in a concatenated matrix: one block of "
                "scales would span gate and up rows; give gate and up as two matrices",
                op, intermediate, kFp8Block);
        up_scale_row = intermediate / kFp8Block;
    }
    return {rows_from(rows, 0, intermediate, 0), rows_from(rows, intermediate, intermediate, up_scale_row)};
}

Halves split_interleaved(const PackedLayout& layout, const Rows& rows, const char* op) {
    if (layout.spec.format == WeightFormat::fp8_block)
        invalid(
            "{}: fp8_block with interleaved gate and up rows: every block of scales would span both; give gate and up "
            "as two matrices",
            op);
    Halves halves = {rows_from(rows, 0, layout.rows / 2, 0), rows_from(rows, 1, layout.rows / 2, 1)};
    for (Rows& half : halves) {
        half.value_stride *= 2;
        half.scale_stride *= 2;
    }
    return halves;
}

}  // namespace

void check_matrix(const WeightMatrix& matrix, const WeightSpec& spec, std::int64_t rows, std::int64_t cols,
                  const char* op, const char* name, bool written, bool gate_up) {
    if (!(normalised(matrix.spec) == normalised(spec)))
        invalid("{}: `{}` is {}, expected {}", op, name, to_string(matrix.spec), to_string(spec));
    if (matrix.rows != rows || matrix.cols != cols)
        invalid("{}: `{}` is [{}, {}], expected [{}, {}]", op, name, matrix.rows, matrix.cols, rows, cols);
    const std::string value_name = std::string(name) + ".values";
    const std::string scale_name = std::string(name) + ".scales";
    const auto expect = [&](const Tensor& tensor, const std::string& what, std::initializer_list<DType> dtypes,
                            std::int64_t tensor_rows, std::int64_t tensor_cols) {
        check::tensor(tensor, {.op = op,
                               .name = what.c_str(),
                               .dtypes = dtypes,
                               .shape = {tensor_rows, tensor_cols},
                               .device = {},
                               .alignment = 1,
                               .written = written});
    };
    const std::string global_name = std::string(name) + ".global_scale";
    if (spec.format == WeightFormat::nvfp4) {
        const bool two = gate_up && matrix.global_scale.rank == 1 && matrix.global_scale.size(0) == 2;
        check::tensor(matrix.global_scale, {.op = op,
                                            .name = global_name.c_str(),
                                            .dtypes = {DType::f32},
                                            .shape = {two ? 2 : 1},
                                            .device = {},
                                            .contiguous_from = 0,
                                            .alignment = 1,
                                            .written = written});
    } else {
        check::absent(matrix.global_scale, op, global_name.c_str(), "with other weights than nvfp4");
    }
    switch (spec.format) {
        case WeightFormat::bf16:
            expect(matrix.values, value_name, {DType::bf16}, rows, cols);
            check::absent(matrix.scales, op, scale_name.c_str(), "with bf16 weights");
            return;
        case WeightFormat::fp8_block:
            expect(matrix.values, value_name, {DType::e4m3, DType::u8}, rows, cols);
            expect(matrix.scales, scale_name, {DType::f32}, blocks(rows), blocks(cols));
            return;
        case WeightFormat::int4:
            expect(matrix.values, value_name, {DType::i32}, rows, cols / 8);
            expect(matrix.scales, scale_name, {spec.scale_dtype}, rows, cols / spec.group_size);
            return;
        case WeightFormat::mxfp4:
            expect(matrix.values, value_name, {DType::u4x2, DType::u8}, rows, cols / 2);
            expect(matrix.scales, scale_name, {DType::e8m0, DType::u8}, rows, cols / spec.group_size);
            return;
        case WeightFormat::nvfp4:
            expect(matrix.values, value_name, {DType::u4x2, DType::u8}, rows, cols / 2);
            expect(matrix.scales, scale_name, {DType::e4m3, DType::u8}, rows, cols / spec.group_size);
            return;
    }
}

Rows all_rows(const WeightMatrix& matrix) {
    Rows rows;
    rows.count = matrix.rows;
    rows.values = matrix.values.as<std::byte>();
    rows.value_stride = static_cast<std::size_t>(matrix.values.stride(0)) * size_of(matrix.values.dtype);
    if (matrix.scales) {
        rows.scales = matrix.scales.as<std::byte>();
        rows.scale_stride = static_cast<std::size_t>(matrix.scales.stride(0)) * size_of(matrix.scales.dtype);
    }
    if (matrix.global_scale) rows.global_scale = matrix.global_scale.as<std::byte>();
    return rows;
}

Halves split(const PackedLayout& layout, const WeightMatrix& matrix, RowOrder order, const char* op) {
    const Rows rows = all_rows(matrix);
    const bool pairs = order == RowOrder::gate_up_concatenated || order == RowOrder::gate_up_interleaved;
    if ((order != RowOrder::plain && !pairs) || pairs != layout.gate_up)
        invalid("{}: `order` is {}, expected {}", op, order_name(order),
                layout.gate_up ? "gate_up_concatenated or gate_up_interleaved for a gate/up layout"
                               : "plain for a layout without gate and up");
    if (order == RowOrder::plain) return {rows, Rows{}};
    Halves halves = order == RowOrder::gate_up_concatenated ? split_concatenated(layout, rows, op)
                                                            : split_interleaved(layout, rows, op);
    if (rows.global_scale != nullptr && matrix.global_scale.size(0) == 2) halves[1].global_scale += sizeof(float);
    return halves;
}

StripRows strip_rows(const PackedLayout& layout, const Halves& halves, std::int64_t strip) noexcept {
    StripRows result;
    const bool block_scales = layout.spec.format == WeightFormat::fp8_block;
    for (int r = 0; r < kStripRows; ++r) {
        const int half = layout.gate_up ? r / 8 % 2 : 0;
        const std::int64_t row = layout.gate_up ? strip * 32 + r / 16 * 8 + r % 8 : strip * kStripRows + r;
        const Rows& rows = halves[static_cast<std::size_t>(half)];
        if (row >= rows.count) continue;
        const auto index = static_cast<std::size_t>(r);
        result.values[index] = rows.values + static_cast<std::size_t>(row) * rows.value_stride;
        if (rows.scales == nullptr) continue;
        const std::int64_t scale_row = block_scales ? row / kFp8Block : row;
        result.scales[index] = rows.scales + static_cast<std::size_t>(scale_row) * rows.scale_stride;
    }
    return result;
}

}  // namespace tokamak::formats
