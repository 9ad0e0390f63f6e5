// SPDX-License-Identifier: Apache-2.0
// What the header of a packed file says about a layer, as text.
#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/json_depth.h"
#include "core/throw.h"
#include "formats/pack_plan.h"
#include "formats/safetensors_header.h"

namespace tokamak::formats {
namespace {

using nlohmann::json;

/// The numbers of a layer by name: what is written is what is read.
struct Number {
    const char* name;
    std::int64_t PackedLayer::*member;
    std::int64_t least;
};
constexpr std::array<Number, 7> kNumbers = {{{"hidden", &PackedLayer::hidden, 1},
                                             {"intermediate", &PackedLayer::intermediate, 1},
                                             {"first_intermediate", &PackedLayer::first_intermediate, 0},
                                             {"total_intermediate", &PackedLayer::total_intermediate, 1},
                                             {"experts", &PackedLayer::num_experts, 1},
                                             {"first_expert", &PackedLayer::first_expert, 0},
                                             {"total_experts", &PackedLayer::total_experts, 1}}};

[[noreturn]] void refuse(const std::string& file, int layer, const std::string& what) {
    fail(ErrorCode::parse, "{}: metadata of layer {}: {}", file, layer, what);
}

std::string text_of(const std::string& file, int layer, const json& document, const char* name) {
    if (!document.contains(name) || !document.at(name).is_string())
        refuse(file, layer, fmt::format("\"{}\" is not a string", name));
    return document.at(name).get<std::string>();
}

std::int64_t number_of(const std::string& file, int layer, const json& document, const Number& number) {
    constexpr std::int64_t most = std::int64_t{1} << 40;  // sums and doubles of sizes stay far below 2^63
    const json value = document.value(number.name, json());
    if (!value.is_number_integer() || value < number.least || value > most)
        refuse(file, layer, fmt::format("\"{}\" is no number of {} to {}", number.name, number.least, most));
    return value.get<std::int64_t>();
}

CheckpointLayout layout_of(const std::string& file, int layer, const std::string& name) {
    for (int i = 0; i <= static_cast<int>(CheckpointLayout::gptq); ++i)
        if (name == to_string(static_cast<CheckpointLayout>(i))) return static_cast<CheckpointLayout>(i);
    refuse(file, layer, "unknown source " + display_name(name));
}

void check_slice(const std::string& file, int layer, const char* what, std::int64_t first, std::int64_t count,
                 std::int64_t total) {
    if (first + count > total) refuse(file, layer, fmt::format("{} {} to {} of {}", what, first, first + count, total));
}

}  // namespace

std::string packed_name(int layer, const char* tensor) { return "layers." + std::to_string(layer) + "." + tensor; }

std::string layer_key(int layer) { return "layer." + std::to_string(layer); }

std::string describe_layer(const PackedLayer& layer) {
    json document = {{"source", to_string(layer.source)}, {"spec", to_string(layer.spec)}};
    for (const Number& number : kNumbers) document[number.name] = layer.*number.member;
    return document.dump();
}

PackedLayer parse_layer(const std::string& file, int layer, const std::string& text) {
    const json document = nests_deeper(text) ? json() : json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!document.is_object()) refuse(file, layer, "not a JSON object");
    PackedLayer result;
    result.layer = layer;
    result.source = layout_of(file, layer, text_of(file, layer, document, "source"));
    try {
        result.spec = parse_weight_spec(text_of(file, layer, document, "spec"));
        for (const Number& number : kNumbers) result.*number.member = number_of(file, layer, document, number);
        check_slice(file, layer, "intermediate columns", result.first_intermediate, result.intermediate,
                    result.total_intermediate);
        check_slice(file, layer, "experts", result.first_expert, result.num_experts, result.total_experts);
        result.gate_up_layout = PackedLayout::make(result.spec, 2 * result.intermediate, result.hidden, true);
        result.down_layout = PackedLayout::make(result.spec, result.hidden, result.intermediate, false);
    } catch (const Error& error) {
        if (std::string(error.what()).starts_with(file)) throw;
        refuse(file, layer, error.what());
    }
    return result;
}

}  // namespace tokamak::formats
