// SPDX-License-Identifier: Apache-2.0
#include "formats/pack_plan.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/json_depth.h"
#include "core/throw.h"
#include "formats/file_io.h"
#include "formats/packed_tile.h"
#include "formats/safetensors_header.h"

namespace tokamak::formats {
namespace {

using nlohmann::json;

void check_rank(const char* what, int rank, int size) {
    if (size < 1) invalid("pack: `{}_size` is {}, expected at least 1", what, size);
    if (rank < 0 || rank >= size) invalid("pack: `{}_rank` is {}, expected 0 to {}", what, rank, size - 1);
}

std::vector<int> chosen_layers(const PackRequest& request, const TensorSource& source) {
    std::vector<int> layers = request.layers;
    if (layers.empty()) layers = LayerReader::layers_with_experts(source);
    std::sort(layers.begin(), layers.end());
    if (std::adjacent_find(layers.begin(), layers.end()) != layers.end()) invalid("pack: a layer is asked for twice");
    if (layers.empty())
        fail(ErrorCode::parse, "{}: has no experts: no tensor model.layers.<layer>.mlp.experts...", source.path());
    return layers;
}

/// What the configuration beside the checkpoint says, in either of the places that writers use.
GptqZeros configured_zeros(const std::string& folder) {
    for (const char* name : {"config.json", "quantize_config.json"}) {
        const std::string path = (std::filesystem::path(folder) / name).string();
        std::ifstream file(path, std::ios::binary);
        std::ostringstream text;
        if (!file || !(text << file.rdbuf())) continue;
        const json document =
            nests_deeper(text.str()) ? json() : json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
        if (!document.is_object())
            fail(ErrorCode::parse, "{}: not a JSON object; say how zero points are stored (`gptq_zeros`)", path);
        const json& config = document.contains("quantization_config") ? document.at("quantization_config") : document;
        if (config.is_object() && config.contains("checkpoint_format"))
            return config.at("checkpoint_format") == "gptq_v2" ? GptqZeros::plain : GptqZeros::minus_one;
    }
    return GptqZeros::minus_one;
}

/// Intermediate columns that one rank may not share with another.
std::int64_t granule_of(const LayerWeights& weights) noexcept {
    const bool one_scale = weights.experts.front().gate.encoding == Encoding::fp8_one_scale;
    if (is_4bit(weights.spec)) return weights.spec.group_size;
    return weights.spec.format == WeightFormat::fp8_block && !one_scale ? kFp8Block : 1;
}

Tensor described(DType dtype, std::initializer_list<std::int64_t> shape) { return {nullptr, dtype, shape}; }

PlannedLayer plan_layer(const PackRequest& request, const std::shared_ptr<const CheckpointFiles>& source, int number) {
    const LayerReader reader = layer_reader(source, number);
    const CheckpointLayout layout = known_layout(reader);
    PlannedLayer planned;
    if (layout == CheckpointLayout::gptq)
        planned.zeros = request.gptq_zeros ? *request.gptq_zeros : configured_zeros(source->folder());
    const LayerWeights weights = read_layer(reader, layout, 0, -1, planned.zeros);
    const std::int64_t granule = granule_of(weights);
    const Slice inner = share_of(weights.intermediate, granule, request.tensor_rank, request.tensor_size);
    const Slice experts = share_of(weights.total_experts, 1, request.expert_rank, request.expert_size);
    if (inner.count < 1)
        invalid("pack: layer {} has {} intermediate columns in groups of {}, too few for {} tensor-parallel ranks",
                number, weights.intermediate, granule, request.tensor_size);
    if (experts.count < 1)
        invalid("pack: layer {} has {} experts, too few for {} expert-parallel ranks", number, weights.total_experts,
                request.expert_size);
    PackedLayer& sizes = planned.sizes;
    sizes.layer = number;
    sizes.source = layout;
    sizes.spec = weights.spec;
    sizes.hidden = weights.hidden;
    sizes.intermediate = inner.count;
    sizes.first_intermediate = inner.first;
    sizes.total_intermediate = weights.intermediate;
    sizes.num_experts = experts.count;
    sizes.first_expert = experts.first;
    sizes.total_experts = weights.total_experts;
    sizes.gate_up_layout = PackedLayout::make(weights.spec, 2 * inner.count, weights.hidden, true);
    sizes.down_layout = PackedLayout::make(weights.spec, weights.hidden, inner.count, false);
    const auto bytes = [](const PackedLayout& packed) { return static_cast<std::int64_t>(packed.matrix_bytes); };
    sizes.gate_up = described(DType::u8, {experts.count, bytes(sizes.gate_up_layout)});
    sizes.down = described(DType::u8, {experts.count, bytes(sizes.down_layout)});
    if (weights.experts.front().gate_up_bias)
        sizes.gate_up_bias = described(DType::bf16, {experts.count, 2 * inner.count});
    if (weights.experts.front().down_bias) sizes.down_bias = described(DType::bf16, {experts.count, weights.hidden});
    sizes.router_weight = weights.router_weight.shape;
    sizes.router_bias = weights.router_bias.shape;
    return planned;
}

/// A tensor of the file with the place where its offset goes.
struct Placed {
    NamedTensor named;
    std::uint64_t* offset;
};

/// Packed tensors first, because their sizes are multiples of 128; then the others, wide elements first.
std::vector<Placed> place_tensors(std::vector<PlannedLayer>& layers) {
    std::vector<Placed> placed;
    const auto add = [&](int layer, const char* name, const Tensor& tensor, std::uint64_t& offset) {
        if (tensor.present) placed.push_back({{packed_name(layer, name), tensor}, &offset});
    };
    for (PlannedLayer& layer : layers) {
        add(layer.sizes.layer, "gate_up", layer.sizes.gate_up, layer.gate_up);
        add(layer.sizes.layer, "down", layer.sizes.down, layer.down);
    }
    const std::size_t packed = placed.size();
    for (PlannedLayer& layer : layers) {
        const PackedLayer& sizes = layer.sizes;
        add(sizes.layer, "router_weight", sizes.router_weight, layer.router_weight);
        add(sizes.layer, "router_bias", sizes.router_bias, layer.router_bias);
        add(sizes.layer, "gate_up_bias", sizes.gate_up_bias, layer.gate_up_bias);
        add(sizes.layer, "down_bias", sizes.down_bias, layer.down_bias);
    }
    std::stable_sort(
        placed.begin() + static_cast<std::ptrdiff_t>(packed), placed.end(),
        [](const Placed& a, const Placed& b) { return size_of(a.named.tensor.dtype) > size_of(b.named.tensor.dtype); });
    return placed;
}

void lay_out(PackPlan& plan) {
    const std::vector<Placed> placed = place_tensors(plan.layers);
    std::vector<NamedTensor> tensors;
    for (const Placed& one : placed) tensors.push_back(one.named);
    std::map<std::string, std::string> metadata = {{kPackedVersionKey, kPackedVersion},
                                                   {kLayoutVersionKey, std::to_string(PackedLayout::current_version)}};
    for (const PlannedLayer& layer : plan.layers) metadata[layer_key(layer.sizes.layer)] = describe_layer(layer.sizes);
    plan.header = make_safetensors_header(tensors, metadata, kPackedAlignment, "pack");
    plan.file_bytes = plan.header.size();
    for (const Placed& one : placed) {
        *one.offset = plan.file_bytes;
        plan.file_bytes += one.named.tensor.bytes();
    }
}

}  // namespace

Slice share_of(std::int64_t total, std::int64_t granule, int rank, int size) noexcept {
    const std::int64_t granules = (total - 1) / granule + 1;
    const std::int64_t first = std::min(granules * rank / size * granule, total);
    const std::int64_t end = std::min(granules * (rank + 1) / size * granule, total);
    return {first, end - first};
}

std::size_t PackPlan::packed_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const PlannedLayer& layer : layers) bytes += layer.packed_bytes();
    return bytes;
}

std::uint64_t PackPlan::identity() const noexcept {
    std::uint64_t seed = source->identity();
    for (const PlannedLayer& layer : layers) seed = checksum(&layer.zeros, sizeof layer.zeros, seed);
    return checksum(header.data(), header.size(), seed);
}

PackPlan make_pack_plan(const PackRequest& request) {
    check_rank("tensor", request.tensor_rank, request.tensor_size);
    check_rank("expert", request.expert_rank, request.expert_size);
    if (request.threads < 0) invalid("pack: `threads` is {}, expected at least 0", request.threads);
    PackPlan plan;
    plan.source = CheckpointFiles::open(request.source);
    for (const int layer : chosen_layers(request, *plan.source))
        plan.layers.push_back(plan_layer(request, plan.source, layer));
    lay_out(plan);
    return plan;
}

}  // namespace tokamak::formats
