// SPDX-License-Identifier: Apache-2.0
#include "formats/layer_reader.h"

#include <algorithm>
#include <charconv>

#include "core/throw.h"
#include "formats/safetensors_header.h"

namespace tokamak::formats {
namespace {

constexpr std::string_view kExperts = "mlp.experts.";

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
std::vector<std::string_view> names_under(const SafetensorsFile& file, const std::string& prefix) {
    std::vector<std::string_view> found;
    const auto names = file.names();
    for (auto at = std::lower_bound(names.begin(), names.end(), prefix); at != names.end() && at->starts_with(prefix);
         ++at)
        found.push_back(std::string_view(*at).substr(prefix.size()));
    return found;
}

}  // namespace

std::optional<LayerReader> LayerReader::find(const SafetensorsFile& file, int layer) {
    if (layer < 0) return std::nullopt;
    for (const char* root : {"model.layers.", "layers."}) {
        LayerReader reader(file, root + std::to_string(layer) + ".");
        if (!reader.expert_names().empty()) return reader;
    }
    return std::nullopt;
}

std::vector<std::string_view> LayerReader::expert_names() const {
    return names_under(file_, prefix_ + std::string(kExperts));
}

Tensor LayerReader::tensor(const std::string& name, std::initializer_list<DType> dtypes,
                           const std::vector<std::int64_t>& shape) const {
    if (!contains(name)) refuse(name, "is missing, expected " + expectation(dtypes, shape));
    const Tensor found = file_.tensor(prefix_ + name);
    if (!fits(found, dtypes, shape))
        refuse(name, "is " + to_string(found) + ", expected " + expectation(dtypes, shape));
    return found;
}

Tensor LayerReader::optional_tensor(const std::string& name, std::initializer_list<DType> dtypes,
                                    const std::vector<std::int64_t>& shape) const {
    return contains(name) ? tensor(name, dtypes, shape) : Tensor();
}

std::optional<DType> LayerReader::dtype_of(const std::string& name) const {
    if (!contains(name)) return std::nullopt;
    try {
        return file_.tensor(prefix_ + name).dtype;
    } catch (const Error&) {
        return std::nullopt;
    }
}

std::vector<std::int64_t> LayerReader::expert_numbers() const {
    std::vector<std::int64_t> numbers;
    for (const std::string_view name : expert_names())
        if (const auto number = leading_number(name)) numbers.push_back(*number);
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    return numbers;
}

void LayerReader::refuse(const std::string& name, const std::string& what) const {
    fail(ErrorCode::parse, "{}: tensor {}: {}", file_.path(), display_name(prefix_ + name), what);
}

}  // namespace tokamak::formats
