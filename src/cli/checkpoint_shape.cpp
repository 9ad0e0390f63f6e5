// SPDX-License-Identifier: Apache-2.0
#include "cli/checkpoint_shape.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/common.h"
#include "core/json_depth.h"
#include "core/throw.h"
#include "formats/checkpoint_files.h"
#include "formats/layer_weights.h"

namespace tokamak::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The object that has the sizes of the language model; an empty one without a config.json.
json read_config(const std::string& folder) {
    const std::string path = (fs::path(folder) / "config.json").string();
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return json::object();
    const std::string text = read_text(path);
    json config = nests_deeper(text) ? json() : json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!config.is_object()) fail(ErrorCode::parse, "{}: not a JSON object", printable(path));
    if (config.contains("text_config") && config.at("text_config").is_object()) return config.at("text_config");
    return config;
}

/// Under any of the names that writers use.
int configured_top_k(const json& config) {
    for (const char* name : {"num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk"})
        if (config.contains(name) && config.at(name).is_number_integer()) {
            const auto value = config.at(name).get<std::int64_t>();
            if (value >= 1 && value <= 1024) return static_cast<int>(value);
        }
    return 0;
}

moe::Activation activation_of(CheckpointLayout layout, const json& config) {
    if (layout == CheckpointLayout::gpt_oss) return moe::Activation::gpt_oss();
    if (config.contains("swiglu_limit") && config.at("swiglu_limit").is_number())
        if (const auto limit = config.at("swiglu_limit").get<float>(); limit > 0)
            return moe::Activation::swiglu_clamped(limit);
    return moe::Activation::swiglu();
}

/// The folder's name, or that of a single file.
std::string name_of(const std::string& path) {
    fs::path name = fs::path(path).lexically_normal();
    if (name.filename().empty()) name = name.parent_path();
    if (name.extension() == ".json" && name.has_parent_path()) name = name.parent_path();
    if (name.extension() == ".safetensors") name = name.stem();
    const std::string text = printable(name.filename().string());
    return text.empty() || text == "." ? "checkpoint" : text;
}

bool same(const MoeShape& a, const MoeShape& b) {
    return a.experts == b.experts && a.hidden == b.hidden && a.intermediate == b.intermediate &&
           a.formats == b.formats && a.biases == b.biases;
}

}  // namespace

std::vector<CheckpointShape> checkpoint_shapes(const std::string& path, int layer, int top_k) {
    const auto source = formats::CheckpointFiles::open(path);
    const json config = read_config(source->folder());
    std::vector<int> layers = {layer};
    if (layer < 0) layers = formats::LayerReader::layers_with_experts(*source);
    if (layers.empty()) fail(ErrorCode::parse, "{}: has no layer with experts", printable(path));
    if (top_k == 0) top_k = configured_top_k(config);
    std::vector<CheckpointShape> shapes;
    for (const int number : layers) {
        const formats::LayerReader reader = formats::layer_reader(source, number);
        const CheckpointLayout layout = formats::known_layout(reader);
        const formats::LayerWeights weights = formats::read_layer(reader, layout, 0, 1, GptqZeros::minus_one);
        MoeShape shape;
        shape.name = name_of(path);
        shape.experts = static_cast<int>(weights.total_experts);
        shape.hidden = weights.hidden;
        shape.intermediate = weights.intermediate;
        shape.top_k = top_k;
        shape.formats = {weights.spec};
        shape.activation = activation_of(layout, config);
        shape.biases = static_cast<bool>(weights.experts.front().gate_up_bias);
        const bool known =
            std::any_of(shapes.begin(), shapes.end(), [&](const auto& other) { return same(other.shape, shape); });
        if (!known) shapes.push_back({std::move(shape), number});
    }
    if (top_k == 0)
        invalid("{}: no config.json beside it says how many experts a token has: give --top-k", printable(path));
    return shapes;
}

}  // namespace tokamak::cli
