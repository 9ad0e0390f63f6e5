// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "cli/common.h"
#include "core/json_depth.h"
#include "core/throw.h"

namespace tokamak::cli::conformance {
namespace {

using nlohmann::json;

/// A member that must be there and be a string.
std::string required_text(const json& object, const char* key) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string()) fail(ErrorCode::parse, "\"{}\" is not a string", key);
    return found->get<std::string>();
}

/// A member that is an object, or absent and then empty.
const json& optional_object(const json& object, const char* key) {
    static const json empty = json::object();
    const auto found = object.find(key);
    if (found == object.end()) return empty;
    if (!found->is_object()) fail(ErrorCode::parse, "\"{}\" is not an object", key);
    return *found;
}

std::vector<std::int64_t> parse_shape(const json& value) {
    if (!value.is_array()) fail(ErrorCode::parse, "a shape is not an array");
    if (value.size() > static_cast<std::size_t>(Tensor::max_rank))
        fail(ErrorCode::parse, "a shape has {} dimensions, at most {} are supported", value.size(), Tensor::max_rank);
    std::vector<std::int64_t> shape;
    for (const json& size : value) {
        if (!size.is_number_integer() || size < 0) fail(ErrorCode::parse, "a shape holds {}", size.dump());
        shape.push_back(size.get<std::int64_t>());
    }
    return shape;
}

std::map<std::string, TensorRef> parse_tensors(const json& object) {
    std::map<std::string, TensorRef> tensors;
    for (const auto& [name, value] : object.items()) {
        if (!value.is_object()) fail(ErrorCode::parse, "tensor \"{}\" is not an object", name);
        const std::string dtype_name = required_text(value, "dtype");
        const auto dtype = parse_dtype(dtype_name);
        if (!dtype) fail(ErrorCode::parse, "tensor \"{}\" has the unknown dtype \"{}\"", name, dtype_name);
        const auto shape = value.find("shape");
        if (shape == value.end()) fail(ErrorCode::parse, "tensor \"{}\" has no shape", name);
        tensors[name] = {required_text(value, "tensor"), *dtype, parse_shape(*shape)};
    }
    return tensors;
}

double parse_bound(const json& object, const char* key) {
    const auto found = object.find(key);
    if (found == object.end()) return 0;
    if (!found->is_number() || found->get<double>() < 0)
        fail(ErrorCode::parse, "tolerance \"{}\" is {}, expected a number of at least 0", key, found->dump());
    return found->get<double>();
}

Bounds parse_bounds(const json& object) {
    if (!object.is_object()) fail(ErrorCode::parse, "a tolerance is not an object");
    if (!object.contains("atol") && !object.contains("rtol"))
        fail(ErrorCode::parse, "a tolerance has neither \"atol\" and \"rtol\" nor \"exact\"");
    return {parse_bound(object, "atol"), parse_bound(object, "rtol")};
}

std::map<std::string, Tolerance> parse_tolerances(const json& object) {
    std::map<std::string, Tolerance> tolerances;
    for (const auto& [name, value] : object.items()) {
        Tolerance tolerance;
        if (!value.is_object()) fail(ErrorCode::parse, "the tolerance of \"{}\" is not an object", name);
        const auto exact = value.find("exact");
        const bool is_exact = exact != value.end() && exact->is_boolean() && exact->get<bool>();
        if (!is_exact) tolerance.bounds = parse_bounds(value);
        const auto suggested = value.find("suggested");
        if (suggested != value.end()) tolerance.suggested = parse_bounds(*suggested);
        tolerances[name] = tolerance;
    }
    return tolerances;
}

std::set<std::string> parse_tags(const json& entry) {
    std::set<std::string> tags;
    const auto found = entry.find("tags");
    if (found == entry.end()) return tags;
    if (!found->is_array()) fail(ErrorCode::parse, "\"tags\" is not an array");
    for (const json& tag : *found) {
        if (!tag.is_string()) fail(ErrorCode::parse, "a tag is not a string");
        tags.insert(tag.get<std::string>());
    }
    return tags;
}

/// The file lies beside the manifest: a plain name, so that a case cannot point anywhere else.
void check_file_name(const std::string& file) {
    const bool plain = !file.empty() && file != "." && file != ".." && file.find_first_of("/\\") == std::string::npos &&
                       file.find('\0') == std::string::npos;
    if (!plain) fail(ErrorCode::parse, "\"file\" is \"{}\", expected the name of a file beside the manifest", file);
}

void parse_entry(const json& entry, Case& result) {
    result.name = required_text(entry, "name");
    result.op = required_text(entry, "op");
    result.file = required_text(entry, "file");
    check_file_name(result.file);
    result.params = optional_object(entry, "params");
    result.inputs = parse_tensors(optional_object(entry, "inputs"));
    result.outputs = parse_tensors(optional_object(entry, "outputs"));
    result.aux = parse_tensors(optional_object(entry, "aux"));
    result.tolerance = parse_tolerances(optional_object(entry, "tolerance"));
    result.aux_tolerance = parse_tolerances(optional_object(entry, "aux_tolerance"));
    result.tags = parse_tags(entry);
    if (result.outputs.empty()) fail(ErrorCode::parse, "no outputs are expected");
    for (const auto& [name, tensor] : result.outputs)
        if (result.tolerance.count(name) == 0) fail(ErrorCode::parse, "output \"{}\" has no tolerance", name);
    for (const auto& [name, tensor] : result.aux)
        if (result.aux_tolerance.count(name) == 0) fail(ErrorCode::parse, "aux \"{}\" has no tolerance", name);
}

Case parse_case(const json& entry, std::size_t position) {
    Case result;
    try {
        if (!entry.is_object()) fail(ErrorCode::parse, "the entry is not an object");
        parse_entry(entry, result);
    } catch (const Error& error) {
        result.broken = fmt::format("manifest: {}", error.what());
    }
    if (result.name.empty()) result.name = fmt::format("case {}", position);
    return result;
}

}  // namespace

std::optional<DType> parse_dtype(std::string name) {
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    static const std::map<std::string, DType> names = {
        {"bf16", DType::bf16},   {"bfloat16", DType::bf16}, {"f16", DType::f16},      {"fp16", DType::f16},
        {"float16", DType::f16}, {"f32", DType::f32},       {"fp32", DType::f32},     {"float32", DType::f32},
        {"f64", DType::f64},     {"f8_e4m3", DType::e4m3},  {"f8_e8m0", DType::e8m0}, {"u8", DType::u8},
        {"i32", DType::i32},     {"i64", DType::i64}};
    const auto found = names.find(name);
    return found == names.end() ? std::nullopt : std::optional(found->second);
}

std::vector<Case> parse_manifest(std::string_view text, const std::string& origin) {
    if (nests_deeper(text)) fail(ErrorCode::parse, "{}: nests deeper than {} levels", origin, kMostJsonDepth);
    const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (document.is_discarded()) fail(ErrorCode::parse, "{}: not valid JSON", origin);
    if (!document.is_object()) fail(ErrorCode::parse, "{}: expected an object", origin);
    const auto format = document.find("format");
    if (format == document.end() || !format->is_number_integer() || *format != 1)
        fail(ErrorCode::parse, "{}: \"format\" is {}, expected 1", origin,
             format == document.end() ? "absent" : format->dump());
    const auto cases = document.find("cases");
    if (cases == document.end() || !cases->is_array()) fail(ErrorCode::parse, "{}: \"cases\" is not an array", origin);
    std::vector<Case> result;
    for (const json& entry : *cases) result.push_back(parse_case(entry, result.size()));
    return result;
}

std::vector<Case> read_manifest(const std::string& folder) {
    const std::string path = folder + "/manifest.json";
    return parse_manifest(read_text(path), printable(path));
}

}  // namespace tokamak::cli::conformance
