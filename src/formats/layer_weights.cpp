// SPDX-License-Identifier: Apache-2.0
#include "formats/layer_weights.h"

#include <array>
#include <cstring>
#include <string>

#include "core/throw.h"

namespace tokamak::formats {
namespace {

constexpr std::int64_t any = LayerReader::any;
constexpr std::int64_t kMxfp4Group = 32;

std::string linear_name(std::int64_t expert, const char* projection) {
    return "mlp.experts." + std::to_string(expert) + "." + projection + ".";
}

/// Number of experts to read; `total` is what the layer has.
std::int64_t checked_count(std::int64_t first, std::int64_t count, std::int64_t total) {
    if (first < 0 || first >= total) invalid("load_experts: `first` is {}, expected 0 to {}", first, total - 1);
    if (count == -1) return total - first;
    if (count < 1 || count > total - first)
        invalid("load_experts: `count` is {}, expected -1 or 1 to {}: the layer has {} experts, `first` is {}", count,
                total - first, total, first);
    return count;
}

void read_router(const LayerReader& reader, const char* weight, const char* bias, std::int64_t experts,
                 LayerWeights& layer) {
    layer.router_weight = reader.optional_tensor(weight, {DType::bf16, DType::f16, DType::f32}, {any, layer.hidden});
    if (layer.router_weight && layer.router_weight.size(0) < experts)
        reader.refuse(weight, "is " + to_string(layer.router_weight) + ", but the layer has " +
                                  std::to_string(experts) + " experts");
    const std::int64_t rows = layer.router_weight ? layer.router_weight.size(0) : experts;
    layer.router_bias = reader.optional_tensor(bias, {DType::bf16, DType::f16, DType::f32}, {rows});
}

/// Numbers that compressed-tensors stores beside the packed words: the shape before packing.
void check_weight_shape(const LayerReader& reader, const std::string& linear, std::int64_t rows, std::int64_t cols) {
    const std::string name = linear + "weight_shape";
    const Tensor shape = reader.tensor(name, {DType::i32, DType::i64}, {2});
    std::array<std::int64_t, 2> sizes{};
    for (std::size_t d = 0; d < 2; ++d) {
        const std::byte* at = shape.as<std::byte>() + d * size_of(shape.dtype);
        if (shape.dtype == DType::i64) {
            std::memcpy(&sizes[d], at, sizeof(std::int64_t));
        } else {
            std::int32_t narrow = 0;
            std::memcpy(&narrow, at, sizeof narrow);
            sizes[d] = narrow;
        }
    }
    if (sizes[0] != rows || sizes[1] != cols)
        reader.refuse(name,
                      fmt::format("says [{}, {}], the packed words hold [{}, {}]", sizes[0], sizes[1], rows, cols));
}

/// One projection of one expert in a layout with numbered experts.
WeightMatrix read_linear(const LayerReader& reader, const std::string& linear, const WeightSpec& spec,
                         std::int64_t rows, std::int64_t cols) {
    WeightMatrix matrix{spec, rows, cols, {}, {}};
    switch (spec.format) {
        case WeightFormat::bf16: matrix.values = reader.tensor(linear + "weight", {DType::bf16}, {rows, cols}); break;
        case WeightFormat::fp8_block:
            matrix.values = reader.tensor(linear + "weight", {DType::e4m3}, {rows, cols});
            matrix.scales =
                reader.tensor(linear + "weight_scale_inv", {DType::f32}, {(rows + 127) / 128, (cols + 127) / 128});
            break;
        case WeightFormat::int4:
            for (const char* field : {"weight_zero_point", "weight_g_idx"})
                if (reader.contains(linear + field))
                    reader.refuse(linear + field,
                                  "is not supported: only symmetric groups of neighbouring columns are");
            matrix.values = reader.tensor(linear + "weight_packed", {DType::i32}, {rows, cols / 8});
            matrix.scales = reader.tensor(linear + "weight_scale", {spec.scale_dtype}, {rows, cols / spec.group_size});
            check_weight_shape(reader, linear, rows, cols);
            break;
        case WeightFormat::mxfp4:
        case WeightFormat::nvfp4: reader.refuse(linear + "weight", "has no known layout");
    }
    return matrix;
}

/// Fills spec, hidden and intermediate from the gate projection of one expert.
void probe(const LayerReader& reader, const std::string& gate, LayerWeights& layer) {
    if (layer.layout != CheckpointLayout::compressed_tensors) {
        const bool fp8 = layer.layout == CheckpointLayout::deepseek_fp8;
        layer.spec = fp8 ? WeightSpec::fp8_block() : WeightSpec::bf16();
        const Tensor weight = reader.tensor(gate + "weight", {fp8 ? DType::e4m3 : DType::bf16}, {any, any});
        layer.intermediate = weight.size(0);
        layer.hidden = weight.size(1);
        return;
    }
    const Tensor packed = reader.tensor(gate + "weight_packed", {DType::i32}, {any, any});
    const Tensor scale = reader.tensor(gate + "weight_scale", {DType::bf16, DType::f16}, {packed.size(0), any});
    layer.intermediate = packed.size(0);
    layer.hidden = packed.size(1) * 8;
    for (const int group : {32, 64, 128})
        if (layer.hidden == scale.size(1) * group) layer.spec = WeightSpec::int4(group, scale.dtype);
    if (layer.spec.format != WeightFormat::int4)
        reader.refuse(
            gate + "weight_scale",
            fmt::format("has {} groups for {} columns, expected groups of 32, 64 or 128", scale.size(1), layer.hidden));
    if (layer.intermediate % layer.spec.group_size != 0)
        reader.refuse(gate + "weight_packed",
                      fmt::format("has {} rows, which the down projection cannot split into groups of {}",
                                  layer.intermediate, layer.spec.group_size));
}

void read_numbered(const LayerReader& reader, std::int64_t first, std::int64_t count, LayerWeights& layer) {
    const std::int64_t total = reader.expert_numbers().back() + 1;
    count = checked_count(first, count, total);
    probe(reader, linear_name(first, "gate_proj"), layer);
    for (std::int64_t expert = first; expert < first + count; ++expert) {
        const auto linear = [&](const char* projection, std::int64_t rows, std::int64_t cols) {
            return read_linear(reader, linear_name(expert, projection), layer.spec, rows, cols);
        };
        ExpertWeights weights;
        weights.gate = linear("gate_proj", layer.intermediate, layer.hidden);
        weights.up = linear("up_proj", layer.intermediate, layer.hidden);
        weights.down = linear("down_proj", layer.hidden, layer.intermediate);
        layer.experts.push_back(weights);
    }
    read_router(reader, "mlp.gate.weight", "mlp.gate.e_score_correction_bias", total, layer);
}

/// A stacked projection of gpt-oss: blocks of 32 columns, 16 bytes each, and their scales.
struct StackedProjection {
    Tensor blocks, scales, bias;
    std::int64_t rows = 0, cols = 0;

    StackedProjection(const LayerReader& reader, const std::string& name, const std::vector<std::int64_t>& shape) {
        const auto bytes = kMxfp4Group / 2;
        blocks = reader.tensor(name + "_blocks", {DType::u8}, {shape[0], shape[1], shape[2], bytes});
        scales =
            reader.tensor(name + "_scales", {DType::u8, DType::e8m0}, {blocks.size(0), blocks.size(1), blocks.size(2)});
        bias = reader.tensor(name + "_bias", {DType::bf16}, {blocks.size(0), blocks.size(1)});
        rows = blocks.size(1);
        cols = blocks.size(2) * kMxfp4Group;
    }

    [[nodiscard]] WeightMatrix expert(std::int64_t index) const {
        return {WeightSpec::mxfp4(), rows, cols, blocks.at(index).reshape({rows, cols / 2}), scales.at(index)};
    }
};

void read_stacked(const LayerReader& reader, std::int64_t first, std::int64_t count, LayerWeights& layer) {
    const std::string name = "mlp.experts.gate_up_proj";
    const StackedProjection gate_up(reader, name, {any, any, any});
    layer.spec = WeightSpec::mxfp4();
    layer.hidden = gate_up.cols;
    layer.intermediate = gate_up.rows / 2;
    if (gate_up.rows % 2 != 0 || layer.intermediate % kMxfp4Group != 0)
        reader.refuse(name + "_blocks", fmt::format("has {} rows, expected gate and up rows, each a multiple of {}",
                                                    gate_up.rows, kMxfp4Group));
    const std::int64_t total = gate_up.blocks.size(0);
    const StackedProjection down(reader, "mlp.experts.down_proj",
                                 {total, layer.hidden, layer.intermediate / kMxfp4Group});
    count = checked_count(first, count, total);
    for (std::int64_t expert = first; expert < first + count; ++expert)
        layer.experts.push_back(
            {gate_up.expert(expert), std::nullopt, down.expert(expert), gate_up.bias.at(expert), down.bias.at(expert)});
    read_router(reader, "mlp.router.weight", "mlp.router.bias", total, layer);
}

}  // namespace

std::optional<CheckpointLayout> recognise(const LayerReader& reader) {
    // Several names tell each layout, so that a file that lacks one of them is still told what it lacks.
    for (const char* name : {"gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks", "down_proj_scales"})
        if (reader.contains(std::string("mlp.experts.") + name)) return CheckpointLayout::gpt_oss;
    for (const std::int64_t expert : reader.expert_numbers())
        for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
            const std::string linear = linear_name(expert, projection);
            // nvfp4 files have weight_packed too, with a scale of the whole tensor.
            if (reader.contains(linear + "weight_global_scale")) return std::nullopt;
            if (reader.contains(linear + "weight_packed")) return CheckpointLayout::compressed_tensors;
            if (reader.contains(linear + "weight_scale_inv")) return CheckpointLayout::deepseek_fp8;
            if (reader.dtype_of(linear + "weight") == DType::bf16) return CheckpointLayout::bf16;
        }
    return std::nullopt;
}

LayerWeights read_layer(const LayerReader& reader, CheckpointLayout layout, std::int64_t first, std::int64_t count) {
    LayerWeights layer;
    layer.layout = layout;
    if (layout == CheckpointLayout::gpt_oss) {
        read_stacked(reader, first, count, layer);
    } else {
        read_numbered(reader, first, count, layer);
    }
    return layer;
}

}  // namespace tokamak::formats
