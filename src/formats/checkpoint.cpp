// SPDX-License-Identifier: Apache-2.0
#include "tokamak/checkpoint.h"

#include <cstring>

#include "core/throw.h"
#include "formats/layer_weights.h"
#include "formats/parallel.h"

namespace tokamak {
namespace {

using formats::ExpertWeights;
using formats::LayerWeights;

std::span<std::byte> expert_bytes(const OwnedTensor& packed, std::int64_t expert) {
    const Tensor matrix = packed.view().at(expert);
    return {matrix.as<std::byte>(), matrix.bytes()};
}

/// Gate 0, up 0, gate 1, up 1, ... to gate then up. Copies byte-wise: the source may be unaligned.
void deinterleave(const Tensor& source, std::uint16_t* out) {
    const std::int64_t half = source.size(0) / 2;
    const auto* from = source.as<std::byte>();
    for (std::int64_t i = 0; i < 2 * half; ++i) std::memcpy(out + (i % 2 == 0 ? i / 2 : half + i / 2), from + 2 * i, 2);
}

void pack_expert(const ExpertWeights& weights, std::int64_t expert, PackedExperts& result) {
    if (weights.up) {
        pack_gate_up(result.gate_up_layout, weights.gate, *weights.up, expert_bytes(result.gate_up, expert));
    } else {
        pack(result.gate_up_layout, weights.gate, RowOrder::gate_up_interleaved, expert_bytes(result.gate_up, expert));
    }
    pack(result.down_layout, weights.down, RowOrder::plain, expert_bytes(result.down, expert));
    if (weights.gate_up_bias)
        deinterleave(weights.gate_up_bias, result.gate_up_bias.view().at(expert).as<std::uint16_t>());
    if (weights.down_bias)
        std::memcpy(result.down_bias.view().at(expert).data, weights.down_bias.data, weights.down_bias.bytes());
}

PackedExperts allocate_packed(const LayerWeights& layer) {
    PackedExperts result;
    result.source = layer.layout;
    result.spec = layer.spec;
    result.num_experts = static_cast<std::int64_t>(layer.experts.size());
    result.hidden = layer.hidden;
    result.intermediate = layer.intermediate;
    result.gate_up_layout = PackedLayout::make(layer.spec, 2 * layer.intermediate, layer.hidden, true);
    result.down_layout = PackedLayout::make(layer.spec, layer.hidden, layer.intermediate, false);
    const auto bytes = [](const PackedLayout& layout) { return static_cast<std::int64_t>(layout.matrix_bytes); };
    result.gate_up = OwnedTensor::allocate(DType::u8, {result.num_experts, bytes(result.gate_up_layout)});
    result.down = OwnedTensor::allocate(DType::u8, {result.num_experts, bytes(result.down_layout)});
    if (layer.experts.front().gate_up_bias)
        result.gate_up_bias = OwnedTensor::allocate(DType::bf16, {result.num_experts, 2 * layer.intermediate});
    if (layer.experts.front().down_bias)
        result.down_bias = OwnedTensor::allocate(DType::bf16, {result.num_experts, layer.hidden});
    if (layer.router_weight) result.router_weight = OwnedTensor::copy_of(layer.router_weight);
    if (layer.router_bias) result.router_bias = OwnedTensor::copy_of(layer.router_bias);
    return result;
}

}  // namespace

const char* to_string(CheckpointLayout layout) noexcept {
    switch (layout) {
        case CheckpointLayout::gpt_oss: return "gpt_oss";
        case CheckpointLayout::compressed_tensors: return "compressed_tensors";
        case CheckpointLayout::deepseek_fp8: return "deepseek_fp8";
        case CheckpointLayout::bf16: return "bf16";
    }
    return "unknown";
}

std::optional<CheckpointLayout> recognise_layer(const SafetensorsFile& file, int layer) {
    const auto reader = formats::LayerReader::find(file, layer);
    return reader ? formats::recognise(*reader) : std::nullopt;
}

PackedExperts load_experts(const SafetensorsFile& file, int layer, std::int64_t first, std::int64_t count) {
    if (layer < 0) invalid("load_experts: `layer` is {}, expected at least 0", layer);
    const auto reader = formats::LayerReader::find(file, layer);
    if (!reader)
        fail(ErrorCode::parse, "{}: has no experts of layer {}: no tensor model.layers.{}.mlp.experts...", file.path(),
             layer, layer);
    const auto layout = formats::recognise(*reader);
    if (!layout)
        fail(ErrorCode::parse,
             "{}: the experts of layer {} are in none of the known layouts (gpt_oss, compressed_tensors, deepseek_fp8, "
             "bf16)",
             file.path(), layer);
    const LayerWeights weights = formats::read_layer(*reader, *layout, first, count);
    PackedExperts result = allocate_packed(weights);
    formats::parallel_for(result.num_experts, [&](std::int64_t expert) {
        pack_expert(weights.experts[static_cast<std::size_t>(expert)], expert, result);
    });
    return result;
}

}  // namespace tokamak
