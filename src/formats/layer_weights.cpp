// SPDX-License-Identifier: Apache-2.0
#include "formats/layer_weights.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "core/throw.h"
#include "formats/linear_weights.h"

namespace tokamak::formats {
namespace {

constexpr std::int64_t any = LayerReader::any;
constexpr std::int64_t kMxfp4Group = 32;

/// Number of experts to read; `total` is what the layer has.
std::int64_t checked_count(std::int64_t first, std::int64_t count, std::int64_t total) {
    if (first < 0 || first >= total) invalid("load_experts: `first` is {}, expected 0 to {}", first, total - 1);
    if (count == -1) return total - first;
    if (count < 1 || count > total - first)
        invalid("load_experts: `count` is {}, expected -1 or 1 to {}: the layer has {} experts, `first` is {}", count,
                total - first, total, first);
    return count;
}

void read_router(const LayerReader& reader, const char* weight, const char* bias, LayerWeights& layer) {
    const std::int64_t experts = layer.total_experts;
    layer.router_weight = reader.optional_tensor(weight, {DType::bf16, DType::f16, DType::f32}, {any, layer.hidden});
    const Tensor& shape = layer.router_weight.shape;
    if (layer.router_weight && shape.size(0) < experts)
        reader.refuse(weight, "is " + to_string(shape) + ", but the layer has " + std::to_string(experts) + " experts");
    const std::int64_t rows = layer.router_weight ? shape.size(0) : experts;
    layer.router_bias = reader.optional_tensor(bias, {DType::bf16, DType::f16, DType::f32}, {rows});
}

void read_numbered(const LayerReader& reader, std::int64_t first, std::int64_t count, GptqZeros zeros,
                   LayerWeights& layer) {
    const ExpertNames& names = reader.expert_names();
    layer.total_experts = reader.expert_numbers().back() + 1;
    count = checked_count(first, count, layer.total_experts);
    const auto prefix = [&](std::int64_t expert, std::size_t projection) {
        return names.experts + std::to_string(expert) + "." + names.projections[projection] + ".";
    };
    const LinearProbe probe = probe_linear(reader, layer.layout, prefix(first, 0));
    layer.spec = probe.spec;
    layer.intermediate = probe.rows;
    layer.hidden = probe.cols;
    for (std::int64_t expert = first; expert < first + count; ++expert) {
        const auto linear = [&](std::size_t projection, std::int64_t rows, std::int64_t cols) {
            return read_linear(reader, layer.layout, prefix(expert, projection), layer.spec, rows, cols, zeros);
        };
        ExpertWeights weights;
        weights.gate = linear(0, layer.intermediate, layer.hidden);
        weights.up = linear(1, layer.intermediate, layer.hidden);
        weights.down = linear(2, layer.hidden, layer.intermediate);
        layer.experts.push_back(std::move(weights));
    }
    read_router(reader, names.router_weight, names.router_bias, layer);
}

/// A stacked projection of gpt-oss: blocks of 32 columns, 16 bytes each, and their scales.
struct StackedProjection {
    StoredTensor blocks, scales, bias;
    std::int64_t count = 0, rows = 0, cols = 0;

    StackedProjection(const LayerReader& reader, const std::string& name, const std::vector<std::int64_t>& shape) {
        const auto bytes = kMxfp4Group / 2;
        blocks = reader.tensor(name + "_blocks", {DType::u8}, {shape[0], shape[1], shape[2], bytes});
        const Tensor& found = blocks.shape;
        scales =
            reader.tensor(name + "_scales", {DType::u8, DType::e8m0}, {found.size(0), found.size(1), found.size(2)});
        bias = reader.tensor(name + "_bias", {DType::bf16}, {found.size(0), found.size(1)});
        count = found.size(0);
        rows = found.size(1);
        cols = found.size(2) * kMxfp4Group;
    }

    [[nodiscard]] StoredMatrix expert(std::int64_t index) const {
        StoredMatrix matrix;
        matrix.spec = WeightSpec::mxfp4();
        matrix.rows = rows;
        matrix.cols = cols;
        matrix.values = blocks.at(index).reshape({rows, cols / 2});
        matrix.scales = scales.at(index);
        return matrix;
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
    layer.total_experts = gate_up.count;
    const StackedProjection down(reader, "mlp.experts.down_proj",
                                 {gate_up.count, layer.hidden, layer.intermediate / kMxfp4Group});
    count = checked_count(first, count, layer.total_experts);
    for (std::int64_t expert = first; expert < first + count; ++expert)
        layer.experts.push_back(
            {gate_up.expert(expert), std::nullopt, down.expert(expert), gate_up.bias.at(expert), down.bias.at(expert)});
    read_router(reader, "mlp.router.weight", "mlp.router.bias", layer);
}

/// A layout and a field that no layout before it has.
struct Mark {
    const char* field;
    CheckpointLayout layout;
};

/// In this order: nvfp4 files have weight_packed or weight_scale too, with a scale of the whole matrix.
constexpr std::array<Mark, 6> kMarks = {{{"weight_global_scale", CheckpointLayout::compressed_tensors_nvfp4},
                                         {"weight_packed", CheckpointLayout::compressed_tensors},
                                         {"weight_scale_2", CheckpointLayout::modelopt_nvfp4},
                                         {"weight_scale_inv", CheckpointLayout::deepseek_fp8},
                                         {"scale", CheckpointLayout::deepseek_v4},
                                         {"g_idx", CheckpointLayout::gptq}}};

/// AWQ packs outputs and GPTQ inputs, which the widths of words and scales tell.
std::optional<CheckpointLayout> awq_or_gptq(const LayerReader& reader, const std::string& linear) {
    const auto words = reader.description(linear + "qweight");
    const auto scales = reader.description(linear + "scales");
    if (!words || !scales || words->rank != 2 || scales->rank != 2) return std::nullopt;
    if (words->size(1) == scales->size(1)) return CheckpointLayout::gptq;
    return CheckpointLayout::awq;
}

}  // namespace

std::optional<CheckpointLayout> recognise(const LayerReader& reader) {
    // Several names tell each layout, so that a file that lacks one of them is still told what it lacks.
    for (const char* name : {"gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks", "down_proj_scales"})
        if (reader.contains(std::string("mlp.experts.") + name)) return CheckpointLayout::gpt_oss;
    std::set<std::string> fields;
    std::set<DType> weights;
    std::optional<CheckpointLayout> int4;
    const ExpertNames& names = reader.expert_names();
    for (const auto& [expert, rest] : reader.expert_fields())
        for (const char* projection : names.projections) {
            if (!rest.starts_with(std::string(projection) + ".")) continue;
            const std::string field(rest.substr(std::string(projection).size() + 1));
            const std::string linear = names.experts + std::to_string(expert) + "." + projection + ".";
            if (field == "qweight" && !int4) int4 = awq_or_gptq(reader, linear);
            if (field == "weight")
                if (const auto found = reader.description(linear + field)) weights.insert(found->dtype);
            fields.insert(field);
        }
    for (const Mark& mark : kMarks)
        if (fields.count(mark.field) > 0) return mark.layout;
    if (int4) return int4;
    if (fields.count("weight_scale") > 0 && weights.count(DType::e4m3) > 0) return CheckpointLayout::fp8;
    if (weights.count(DType::bf16) > 0) return CheckpointLayout::bf16;
    return std::nullopt;
}

LayerReader layer_reader(const std::shared_ptr<const TensorSource>& source, int layer) {
    if (auto reader = LayerReader::find(source, layer)) return *std::move(reader);
    fail(ErrorCode::parse, "{}: has no experts of layer {}: no tensor model.layers.{}.mlp.experts...", source->path(),
         layer, layer);
}

CheckpointLayout known_layout(const LayerReader& reader) {
    if (const auto layout = recognise(reader)) return *layout;
    std::string known;
    for (int layout = 0; layout <= static_cast<int>(CheckpointLayout::gptq); ++layout)
        known += (layout > 0 ? ", " : "") + std::string(to_string(static_cast<CheckpointLayout>(layout)));
    fail(ErrorCode::parse, "{}: the experts under {} are in none of the known layouts ({})", reader.path(),
         reader.prefix(), known);
}

LayerWeights read_layer(const LayerReader& reader, CheckpointLayout layout, std::int64_t first, std::int64_t count,
                        GptqZeros zeros) {
    LayerWeights layer;
    layer.layout = layout;
    if (layout == CheckpointLayout::gpt_oss) {
        read_stacked(reader, first, count, layer);
    } else {
        read_numbered(reader, first, count, zeros, layer);
    }
    return layer;
}

}  // namespace tokamak::formats
