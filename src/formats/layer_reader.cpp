// SPDX-License-Identifier: Apache-2.0
#include "formats/layer_reader.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/throw.h"
#include "formats/safetensors_header.h"

namespace tokamak::formats {
namespace {

constexpr std::array<const char*, 4> kRoots = {"model.layers.", "layers.", "language_model.model.layers.",
                                               "model.language_model.layers."};

/// Transformers' names, those of DeepSeek's own files (V4), and those of Mixtral and MiniMax.
constexpr std::array<ExpertNames, 3> kFamilies = {{
    {"mlp.experts.", {"gate_proj", "up_proj", "down_proj"}, "mlp.gate.weight", "mlp.gate.e_score_correction_bias"},
    {"ffn.experts.", {"w1", "w3", "w2"}, "ffn.gate.weight", "ffn.gate.bias"},
    {"block_sparse_moe.experts.",
     {"w1", "w3", "w2"},
     "block_sparse_moe.gate.weight",
     "block_sparse_moe.e_score_correction_bias"},
}};

/// The number that `text` begins with, if a dot follows it and it is written as numbers are (no leading zeros).
std::optional<std::int64_t> leading_number(std::string_view text) noexcept {
    std::int32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool ends_in_dot = end != text.data() + text.size() && *end == '.';
    const bool padded = end - text.data() > 1 && text.front() == '0';
    if (error != std::errc() || number < 0 || !ends_in_dot || padded) return std::nullopt;
    return number;
}

bool fits(const Tensor& tensor, std::initializer_list<DType> dtypes, const std::vector<std::int64_t>& shape) noexcept {
    if (std::find(dtypes.begin(), dtypes.end(), tensor.dtype) == dtypes.end()) return false;
    if (tensor.rank != static_cast<int>(shape.size())) return false;
    for (std::size_t d = 0; d < shape.size(); ++d)
        if (shape[d] == LayerReader::any ? tensor.shape[d] < 1 : tensor.shape[d] != shape[d]) return false;
    return true;
}

std::string expectation(std::initializer_list<DType> dtypes, const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const DType dtype : dtypes) text += (text.empty() ? "" : " or ") + std::string(to_string(dtype));
    text += "[";
    for (std::size_t d = 0; d < shape.size(); ++d)
        text += (d > 0 ? ", " : "") + (shape[d] == LayerReader::any ? "any" : std::to_string(shape[d]));
    return text + "]";
}

/// Names that begin with `prefix`, without it.
std::vector<std::string_view> names_under(const TensorSource& source, const std::string& prefix) {
    std::vector<std::string_view> found;
    const auto names = source.names();
    for (auto at = std::lower_bound(names.begin(), names.end(), prefix); at != names.end() && at->starts_with(prefix);
         ++at)
        found.push_back(std::string_view(*at).substr(prefix.size()));
    return found;
}

}  // namespace

StoredTensor StoredTensor::at(std::int64_t index) const {
    StoredTensor part = *this;
    part.shape =
        Tensor(nullptr, shape.dtype, std::span(shape.shape).subspan(1, static_cast<std::size_t>(shape.rank) - 1));
    part.offset += static_cast<std::size_t>(index) * part.shape.bytes();
    return part;
}

StoredTensor StoredTensor::reshape(std::initializer_list<std::int64_t> sizes) const {
    StoredTensor part = *this;
    part.shape = shape.reshape(sizes);
    return part;
}

std::optional<LayerReader> LayerReader::find(std::shared_ptr<const TensorSource> source, int layer) {
    if (layer < 0) return std::nullopt;
    for (const char* root : kRoots)
        for (const ExpertNames& family : kFamilies) {
            const std::string prefix = root + std::to_string(layer) + ".";
            if (!names_under(*source, prefix + family.experts).empty()) return LayerReader(source, prefix, family);
        }
    return std::nullopt;
}

std::vector<int> LayerReader::layers_with_experts(const TensorSource& source) {
    std::set<int> layers;
    for (const char* root : kRoots)
        for (const std::string_view name : names_under(source, root)) {
            const auto layer = leading_number(name);
            if (!layer) continue;
            const std::string_view rest = name.substr(name.find('.') + 1);
            for (const ExpertNames& family : kFamilies)
                if (rest.starts_with(family.experts)) layers.insert(static_cast<int>(*layer));
        }
    return {layers.begin(), layers.end()};
}

StoredTensor LayerReader::tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                 const std::vector<std::int64_t>& shape) const {
    if (!contains(name)) refuse(name, "is missing, expected " + expectation(dtypes, shape));
    const Tensor found = source_->describe(prefix_ + name);
    if (!fits(found, dtypes, shape))
        refuse(name, "is " + to_string(found) + ", expected " + expectation(dtypes, shape));
    return {name, 0, Tensor(nullptr, found.dtype, std::span(found.shape).first(static_cast<std::size_t>(found.rank)))};
}

StoredTensor LayerReader::optional_tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                          const std::vector<std::int64_t>& shape) const {
    return contains(name) ? tensor(name, dtypes, shape) : StoredTensor();
}

StoredTensor LayerReader::number(const std::string& name, std::initializer_list<DType> dtypes) const {
    const auto found = description(name);
    const bool scalar = found && found->rank == 0;
    StoredTensor stored = tensor(name, dtypes, scalar ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{1});
    return stored.reshape({1});
}

std::optional<Tensor> LayerReader::description(const std::string& name) const {
    if (!contains(name)) return std::nullopt;
    try {
        return source_->describe(prefix_ + name);
    } catch (const Error&) {
        return std::nullopt;
    }
}

Window LayerReader::window(const StoredTensor& stored) const {
    return source_->window(prefix_ + stored.name, stored.offset, stored.shape.bytes());
}

std::vector<LayerReader::ExpertField> LayerReader::expert_fields() const {
    std::vector<ExpertField> fields;
    for (const std::string_view name : names_under(*source_, prefix_ + names_->experts))
        if (const auto number = leading_number(name)) fields.push_back({*number, name.substr(name.find('.') + 1)});
    return fields;
}

std::vector<std::int64_t> LayerReader::expert_numbers() const {
    std::vector<std::int64_t> numbers;
    for (const ExpertField& field : expert_fields()) numbers.push_back(field.expert);
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    return numbers;
}

void LayerReader::refuse(const std::string& name, const std::string& what) const {
    fail(ErrorCode::parse, "{}: tensor {}: {}", source_->path(), display_name(prefix_ + name), what);
}

}  // namespace tokamak::formats
