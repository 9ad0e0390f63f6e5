// SPDX-License-Identifier: Apache-2.0
#include "formats/linear_weights.h"

#include "core/throw.h"
#include "formats/packed_tile.h"

namespace tokamak::formats {
namespace {

constexpr std::int64_t any = LayerReader::any;

std::int64_t blocks(std::int64_t size) noexcept { return (size - 1) / kFp8Block + 1; }

/// int4 with the group that divides `cols` inputs into `groups`.
WeightSpec int4_spec(const LayerReader& reader, const std::string& scales, std::int64_t cols, std::int64_t groups,
                     DType scale_dtype) {
    for (const int group : {32, 64, 128})
        if (cols == groups * group) return WeightSpec::int4(group, scale_dtype);
    reader.refuse(scales, fmt::format("has {} groups for {} columns, expected groups of 32, 64 or 128", groups, cols));
}

LinearProbe probe_int4(const LayerReader& reader, const std::string& linear) {
    const Tensor packed = reader.tensor(linear + "weight_packed", {DType::i32}, {any, any}).shape;
    const std::string name = linear + "weight_scale";
    const Tensor scale = reader.tensor(name, {DType::bf16, DType::f16}, {packed.size(0), any}).shape;
    const std::int64_t cols = packed.size(1) * 8;
    return {int4_spec(reader, name, cols, scale.size(1), scale.dtype), packed.size(0), cols};
}

/// AWQ and GPTQ: inputs come first.
LinearProbe probe_transposed(const LayerReader& reader, CheckpointLayout layout, const std::string& linear) {
    const Tensor words = reader.tensor(linear + "qweight", {DType::i32}, {any, any}).shape;
    const bool awq = layout == CheckpointLayout::awq;
    const std::int64_t cols = awq ? words.size(0) : words.size(0) * 8;
    const std::int64_t rows = awq ? words.size(1) * 8 : words.size(1);
    const Tensor scales = reader.tensor(linear + "scales", {DType::f16, DType::bf16}, {any, rows}).shape;
    return {int4_spec(reader, linear + "scales", cols, scales.size(0), scales.dtype), rows, cols};
}

LinearProbe probe_values(const LayerReader& reader, const std::string& name, std::initializer_list<DType> dtypes,
                         const WeightSpec& spec) {
    const Tensor values = reader.tensor(name, dtypes, {any, any}).shape;
    const bool pairs = values.dtype == DType::u8;
    return {pairs && spec.format == WeightFormat::fp8_block ? WeightSpec::mxfp4() : spec, values.size(0),
            values.size(1) * (pairs ? 2 : 1)};
}

LinearProbe probe(const LayerReader& reader, CheckpointLayout layout, const std::string& linear) {
    const std::string weight = linear + "weight";
    switch (layout) {
        case CheckpointLayout::bf16: return probe_values(reader, weight, {DType::bf16}, WeightSpec::bf16());
        case CheckpointLayout::fp8:
        case CheckpointLayout::deepseek_fp8:
            return probe_values(reader, weight, {DType::e4m3}, WeightSpec::fp8_block());
        case CheckpointLayout::deepseek_v4:
            return probe_values(reader, weight, {DType::e4m3, DType::u8}, WeightSpec::fp8_block());
        case CheckpointLayout::modelopt_nvfp4: return probe_values(reader, weight, {DType::u8}, WeightSpec::nvfp4());
        case CheckpointLayout::compressed_tensors_nvfp4:
            return probe_values(reader, linear + "weight_packed", {DType::u8}, WeightSpec::nvfp4());
        case CheckpointLayout::compressed_tensors: return probe_int4(reader, linear);
        case CheckpointLayout::awq:
        case CheckpointLayout::gptq: return probe_transposed(reader, layout, linear);
        case CheckpointLayout::gpt_oss: break;
    }
    reader.refuse(weight, "has no known layout");
}

void read_int4(const LayerReader& reader, const std::string& linear, StoredMatrix& m) {
    for (const char* field : {"weight_zero_point", "weight_g_idx"})
        if (reader.contains(linear + field))
            reader.refuse(linear + field, "is not supported: only symmetric groups of neighbouring columns are");
    m.values = reader.tensor(linear + "weight_packed", {DType::i32}, {m.rows, m.cols / 8});
    m.scales = reader.tensor(linear + "weight_scale", {m.spec.scale_dtype}, {m.rows, m.cols / m.spec.group_size});
    m.logical_shape = reader.tensor(linear + "weight_shape", {DType::i32, DType::i64}, {2});
}

void read_transposed(const LayerReader& reader, CheckpointLayout layout, const std::string& linear, GptqZeros zeros,
                     StoredMatrix& m) {
    if (m.rows % 8 != 0 || m.cols % 8 != 0)
        reader.refuse(linear + "qweight", fmt::format("holds [{}, {}], expected multiples of 8", m.rows, m.cols));
    const bool awq = layout == CheckpointLayout::awq;
    const std::int64_t groups = m.cols / m.spec.group_size;
    m.encoding = awq ? Encoding::awq : zeros == GptqZeros::plain ? Encoding::gptq_v2 : Encoding::gptq_v1;
    m.values = reader.tensor(
        linear + "qweight", {DType::i32},
        awq ? std::vector<std::int64_t>{m.cols, m.rows / 8} : std::vector<std::int64_t>{m.cols / 8, m.rows});
    m.zeros = reader.tensor(linear + "qzeros", {DType::i32}, {groups, m.rows / 8});
    m.scales = reader.tensor(linear + "scales", {m.spec.scale_dtype}, {groups, m.rows});
    if (!awq) m.column_order = reader.optional_tensor(linear + "g_idx", {DType::i32}, {m.cols});
}

/// fp8 of compressed-tensors: one scale, or one for each block. Scales of whole rows have no counterpart.
void read_fp8(const LayerReader& reader, const std::string& linear, StoredMatrix& m) {
    m.values = reader.tensor(linear + "weight", {DType::e4m3}, {m.rows, m.cols});
    const std::string name = linear + "weight_scale";
    const auto scale = reader.description(name);
    if (scale && scale->rank == 2 && scale->size(0) == blocks(m.rows) && scale->size(1) == blocks(m.cols) &&
        scale->elements() > 1) {
        m.scales = reader.tensor(name, {DType::f32}, {blocks(m.rows), blocks(m.cols)});
        return;
    }
    if (scale && scale->elements() == m.rows && m.rows > 1)
        reader.refuse(name, "is " + to_string(*scale) +
                                ": scales of whole rows are not supported, expected one scale or one for each block of "
                                "128x128");
    m.encoding = Encoding::fp8_one_scale;
    if (scale && scale->rank == 2)
        m.scales = reader.tensor(name, {DType::f32, DType::bf16}, {1, 1}).reshape({1});
    else
        m.scales = reader.number(name, {DType::f32, DType::bf16});
}

void read_scaled(const LayerReader& reader, const std::string& linear, const char* scale, StoredMatrix& m) {
    if (m.spec.format == WeightFormat::mxfp4) {
        m.values = reader.tensor(linear + "weight", {DType::u8}, {m.rows, m.cols / 2});
        m.scales = reader.tensor(linear + scale, {DType::e8m0, DType::u8}, {m.rows, m.cols / m.spec.group_size});
        return;
    }
    m.values = reader.tensor(linear + "weight", {DType::e4m3}, {m.rows, m.cols});
    m.scales = reader.tensor(linear + scale, {DType::f32}, {blocks(m.rows), blocks(m.cols)});
}

/// ModelOpt's global scale multiplies; that of compressed-tensors divides.
void read_nvfp4(const LayerReader& reader, const std::string& linear, bool modelopt, StoredMatrix& m) {
    m.values = reader.tensor(linear + (modelopt ? "weight" : "weight_packed"), {DType::u8}, {m.rows, m.cols / 2});
    m.scales = reader.tensor(linear + "weight_scale", {DType::e4m3}, {m.rows, m.cols / m.spec.group_size});
    m.global_scale = reader.number(linear + (modelopt ? "weight_scale_2" : "weight_global_scale"), {DType::f32});
    if (!modelopt) m.encoding = Encoding::inverse_global_scale;
}

}  // namespace

LinearProbe probe_linear(const LayerReader& reader, CheckpointLayout layout, const std::string& linear) {
    const LinearProbe found = probe(reader, layout, linear);
    const int group = found.spec.group_size;
    if (!is_4bit(found.spec)) return found;
    for (const std::int64_t size : {found.rows, found.cols})
        if (size % group != 0) {
            const bool packed =
                layout == CheckpointLayout::compressed_tensors || layout == CheckpointLayout::compressed_tensors_nvfp4;
            const bool words = layout == CheckpointLayout::awq || layout == CheckpointLayout::gptq;
            reader.refuse(linear + (packed  ? "weight_packed"
                                    : words ? "qweight"
                                            : "weight"),
                          fmt::format("holds [{}, {}], expected whole groups of {} in this projection and in the down "
                                      "projection",
                                      found.rows, found.cols, group));
        }
    return found;
}

StoredMatrix read_linear(const LayerReader& reader, CheckpointLayout layout, const std::string& linear,
                         const WeightSpec& spec, std::int64_t rows, std::int64_t cols, GptqZeros zeros) {
    StoredMatrix matrix;
    matrix.spec = spec;
    matrix.rows = rows;
    matrix.cols = cols;
    switch (layout) {
        case CheckpointLayout::bf16:
            matrix.values = reader.tensor(linear + "weight", {DType::bf16}, {rows, cols});
            break;
        case CheckpointLayout::fp8: read_fp8(reader, linear, matrix); break;
        case CheckpointLayout::deepseek_fp8: read_scaled(reader, linear, "weight_scale_inv", matrix); break;
        case CheckpointLayout::deepseek_v4: read_scaled(reader, linear, "scale", matrix); break;
        case CheckpointLayout::modelopt_nvfp4: read_nvfp4(reader, linear, true, matrix); break;
        case CheckpointLayout::compressed_tensors_nvfp4: read_nvfp4(reader, linear, false, matrix); break;
        case CheckpointLayout::compressed_tensors: read_int4(reader, linear, matrix); break;
        case CheckpointLayout::awq:
        case CheckpointLayout::gptq: read_transposed(reader, layout, linear, zeros, matrix); break;
        case CheckpointLayout::gpt_oss: reader.refuse(linear + "weight", "has no known layout");
    }
    return matrix;
}

}  // namespace tokamak::formats
