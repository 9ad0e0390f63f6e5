// SPDX-License-Identifier: Apache-2.0
#include "formats/stored_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/throw.h"
#include "formats/decode.h"
#include "formats/int4_orders.h"
#include "formats/packed_tile.h"

namespace tokamak::formats {
namespace {

Tensor view_of(const LayerReader& reader, const StoredTensor& stored, LoadedMatrix& loaded) {
    if (!stored) return {};
    Window window = reader.window(stored);
    loaded.keepers.push_back(std::move(window.keeper));
    return {window.data, stored.shape.dtype,
            std::span(stored.shape.shape).first(static_cast<std::size_t>(stored.shape.rank))};
}

Tensor new_tensor(LoadedMatrix& loaded, DType dtype, std::initializer_list<std::int64_t> shape) {
    loaded.memory.push_back(OwnedTensor::allocate(dtype, shape));
    return loaded.memory.back();
}

/// Numbers that compressed-tensors stores beside the packed words: the shape before packing.
void check_logical_shape(const LayerReader& reader, const StoredMatrix& stored) {
    const Window window = reader.window(stored.logical_shape);
    const DType dtype = stored.logical_shape.shape.dtype;
    std::array<std::int64_t, 2> sizes{};
    for (std::size_t d = 0; d < 2; ++d) {
        std::int32_t narrow = 0;
        const std::byte* at = window.data + d * size_of(dtype);
        std::memcpy(&narrow, at, sizeof narrow);
        sizes[d] = narrow;
        if (dtype == DType::i64) std::memcpy(&sizes[d], at, sizeof(std::int64_t));
    }
    if (sizes[0] != stored.rows || sizes[1] != stored.cols)
        reader.refuse(stored.logical_shape.name, fmt::format("says [{}, {}], the packed words hold [{}, {}]", sizes[0],
                                                             sizes[1], stored.rows, stored.cols));
}

float load_number(const Tensor& number) {
    const auto* bytes = number.as<std::byte>();
    return number.dtype == DType::bf16 ? load_bf16(bytes) : load_f32(bytes);
}

void load_transposed(const LayerReader& reader, const StoredMatrix& stored, LoadedMatrix& loaded) {
    const std::int64_t group = stored.spec.group_size;
    if (stored.column_order) {
        const Tensor order = view_of(reader, stored.column_order, loaded);
        if (const Refusal refusal = check_column_order({order.as<std::byte>(), order.bytes()}, stored.cols, group))
            reader.refuse(stored.column_order.name, *refusal);
    }
    const TransposedInt4 source{stored.rows,
                                stored.cols,
                                group,
                                view_of(reader, stored.values, loaded).as<std::byte>(),
                                view_of(reader, stored.zeros, loaded).as<std::byte>(),
                                view_of(reader, stored.scales, loaded).as<std::byte>()};
    WeightMatrix& matrix = loaded.matrix;
    matrix.values = new_tensor(loaded, DType::i32, {stored.rows, stored.cols / 8});
    matrix.scales = new_tensor(loaded, stored.spec.scale_dtype, {stored.rows, stored.cols / group});
    auto* const words = matrix.values.as<std::uint32_t>();
    const Refusal refusal = stored.encoding == Encoding::awq
                                ? convert_awq(source, words)
                                : convert_gptq(source, stored.encoding == Encoding::gptq_v1, words);
    if (refusal) reader.refuse(stored.values.name, *refusal);
    transpose_scales(source, matrix.scales.as<std::uint16_t>());
}

/// All blocks of rows share one row of scales, by a stride of 0.
void load_one_scale(const LayerReader& reader, const StoredMatrix& stored, LoadedMatrix& loaded) {
    const float scale = load_number(view_of(reader, stored.scales, loaded));
    const std::int64_t row_blocks = (stored.rows - 1) / kFp8Block + 1;
    const std::int64_t col_blocks = (stored.cols - 1) / kFp8Block + 1;
    const Tensor row = new_tensor(loaded, DType::f32, {col_blocks});
    std::fill_n(row.as<float>(), col_blocks, scale);
    const std::int64_t shape[] = {row_blocks, col_blocks};
    const std::int64_t strides[] = {0, 1};
    loaded.matrix.values = view_of(reader, stored.values, loaded);
    loaded.matrix.scales = Tensor::strided(row.data, DType::f32, shape, strides);
    loaded.uniform_scale = true;
}

/// Views of rows or columns; `values` and `scales` count in elements of those tensors.
Tensor cut(const Tensor& tensor, int dimension, std::int64_t first, std::int64_t count) {
    Tensor part = tensor;
    if (!part.present) return part;
    part.data =
        tensor.as<std::byte>() + first * tensor.stride(dimension) * static_cast<std::int64_t>(size_of(tensor.dtype));
    part.shape[static_cast<std::size_t>(dimension)] = count;
    return part;
}

/// Blocks of 128 from `first` on; where all have one scale, it does not matter which.
Tensor cut_blocks(const LoadedMatrix& loaded, int dimension, std::int64_t first, std::int64_t count) {
    if (!loaded.uniform_scale && first % kFp8Block != 0)
        invalid("slice of a matrix: begins at {}, expected a multiple of {} for fp8_block", first, kFp8Block);
    const std::int64_t begin = loaded.uniform_scale ? 0 : first / kFp8Block;
    return cut(loaded.matrix.scales, dimension, begin, (count - 1) / kFp8Block + 1);
}

}  // namespace

LoadedMatrix load_matrix(const LayerReader& reader, const StoredMatrix& stored) {
    LoadedMatrix loaded;
    loaded.matrix = {stored.spec, stored.rows, stored.cols, {}, {}};
    switch (stored.encoding) {
        case Encoding::awq:
        case Encoding::gptq_v1:
        case Encoding::gptq_v2: load_transposed(reader, stored, loaded); return loaded;
        case Encoding::fp8_one_scale: load_one_scale(reader, stored, loaded); return loaded;
        case Encoding::as_is:
        case Encoding::inverse_global_scale: break;
    }
    if (stored.logical_shape) check_logical_shape(reader, stored);
    loaded.matrix.values = view_of(reader, stored.values, loaded);
    loaded.matrix.scales = view_of(reader, stored.scales, loaded);
    loaded.matrix.global_scale = view_of(reader, stored.global_scale, loaded);
    if (stored.encoding == Encoding::inverse_global_scale) {
        const float divisor = load_number(loaded.matrix.global_scale);
        const float factor = 1.0F / divisor;
        if (!std::isfinite(factor) || factor == 0.0F)
            reader.refuse(stored.global_scale.name, fmt::format("is {}, which has no reciprocal", divisor));
        loaded.matrix.global_scale = new_tensor(loaded, DType::f32, {1});
        *loaded.matrix.global_scale.as<float>() = factor;
    }
    return loaded;
}

WeightMatrix slice_rows(const LoadedMatrix& loaded, std::int64_t first, std::int64_t count) {
    WeightMatrix part = loaded.matrix;
    part.rows = count;
    part.values = cut(part.values, 0, first, count);
    part.scales = part.spec.format == WeightFormat::fp8_block ? cut_blocks(loaded, 0, first, count)
                                                              : cut(part.scales, 0, first, count);
    return part;
}

WeightMatrix slice_cols(const LoadedMatrix& loaded, std::int64_t first, std::int64_t count) {
    WeightMatrix part = loaded.matrix;
    const int group = part.spec.group_size;
    if (is_4bit(part.spec) && (first % group != 0 || count % group != 0))
        invalid("slice of a matrix: columns {} to {}, expected whole groups of {}", first, first + count, group);
    part.cols = count;
    const std::int64_t per_element = !is_4bit(part.spec) ? 1 : part.spec.format == WeightFormat::int4 ? 8 : 2;
    part.values = cut(part.values, 1, first / per_element, count / per_element);
    if (is_4bit(part.spec))
        part.scales = cut(part.scales, 1, first / group, count / group);
    else if (part.spec.format == WeightFormat::fp8_block)
        part.scales = cut_blocks(loaded, 1, first, count);
    return part;
}

}  // namespace tokamak::formats
