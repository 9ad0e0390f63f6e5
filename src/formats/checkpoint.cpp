// SPDX-License-Identifier: Apache-2.0
#include "tokamak/checkpoint.h"

#include <cstring>

#include "core/throw.h"
#include "formats/expert_packer.h"
#include "formats/layer_weights.h"
#include "formats/parallel.h"

namespace tokamak {
namespace {

using formats::LayerReader;
using formats::LayerWeights;

std::span<std::byte> expert_bytes(const OwnedTensor& packed, std::int64_t expert) {
    const Tensor matrix = packed.view().at(expert);
    return {matrix.as<std::byte>(), matrix.bytes()};
}

void load_expert(const LayerReader& reader, const LayerWeights& layer, std::int64_t index, PackedExperts& result) {
    const formats::ExpertWeights& weights = layer.experts[static_cast<std::size_t>(index)];
    const formats::Slice whole{0, layer.intermediate};
    formats::pack_expert(formats::slice_of(formats::load_expert(reader, weights), whole), result.gate_up_layout,
                         result.down_layout, expert_bytes(result.gate_up, index), expert_bytes(result.down, index));
    if (weights.gate_up_bias)
        formats::slice_gate_up_bias(reader.window(weights.gate_up_bias).data, whole,
                                    result.gate_up_bias.view().at(index).as<std::byte>());
    if (weights.down_bias)
        std::memcpy(result.down_bias.view().at(index).data, reader.window(weights.down_bias).data,
                    weights.down_bias.shape.bytes());
}

OwnedTensor copy_of(const LayerReader& reader, const formats::StoredTensor& stored) {
    if (!stored) return {};
    const formats::Window window = reader.window(stored);
    Tensor view = stored.shape;
    view.data = const_cast<std::byte*>(window.data);
    return OwnedTensor::copy_of(view);
}

PackedExperts allocate_packed(const LayerReader& reader, const LayerWeights& layer) {
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
    result.router_weight = copy_of(reader, layer.router_weight);
    result.router_bias = copy_of(reader, layer.router_bias);
    return result;
}

}  // namespace

const char* to_string(CheckpointLayout layout) noexcept {
    switch (layout) {
        case CheckpointLayout::gpt_oss: return "gpt_oss";
        case CheckpointLayout::compressed_tensors: return "compressed_tensors";
        case CheckpointLayout::deepseek_fp8: return "deepseek_fp8";
        case CheckpointLayout::bf16: return "bf16";
        case CheckpointLayout::fp8: return "fp8";
        case CheckpointLayout::deepseek_v4: return "deepseek_v4";
        case CheckpointLayout::modelopt_nvfp4: return "modelopt_nvfp4";
        case CheckpointLayout::compressed_tensors_nvfp4: return "compressed_tensors_nvfp4";
        case CheckpointLayout::awq: return "awq";
        case CheckpointLayout::gptq: return "gptq";
    }
    return "unknown";
}

std::optional<CheckpointLayout> recognise_layer(const SafetensorsFile& file, int layer) {
    const auto reader = LayerReader::find(formats::source_of(file), layer);
    return reader ? formats::recognise(*reader) : std::nullopt;
}

PackedExperts load_experts(const SafetensorsFile& file, int layer, std::int64_t first, std::int64_t count,
                           GptqZeros zeros) {
    if (layer < 0) invalid("load_experts: `layer` is {}, expected at least 0", layer);
    const LayerReader reader = formats::layer_reader(formats::source_of(file), layer);
    const LayerWeights weights = formats::read_layer(reader, formats::known_layout(reader), first, count, zeros);
    PackedExperts result = allocate_packed(reader, weights);
    formats::parallel_for(result.num_experts,
                          [&](std::int64_t expert) { load_expert(reader, weights, expert, result); });
    return result;
}

}  // namespace tokamak
