// SPDX-License-Identifier: Apache-2.0
#include "tokamak/packed_file.h"

#include <algorithm>
#include <charconv>

#include "core/throw.h"
#include "formats/pack_plan.h"
#include "formats/safetensors_header.h"

namespace tokamak {
namespace {

using formats::display_name;

void check_versions(const SafetensorsFile& file) {
    const auto& metadata = file.metadata();
    const auto text = [&](const char* key) {
        const auto found = metadata.find(key);
        return found == metadata.end() ? std::string() : found->second;
    };
    const std::string version = text(formats::kPackedVersionKey);
    if (version.empty())
        fail(ErrorCode::parse, "{}: not a packed file: no \"{}\" in its metadata", file.path(),
             formats::kPackedVersionKey);
    if (version != formats::kPackedVersion)
        fail(ErrorCode::unsupported, "{}: packed file of version {}, this library reads {}", file.path(),
             display_name(version), formats::kPackedVersion);
    const std::string layout = text(formats::kLayoutVersionKey);
    if (layout != std::to_string(PackedLayout::current_version))
        fail(ErrorCode::unsupported,
             "{}: packed layout of version {}, this library reads {}; pack the checkpoint again", file.path(),
             display_name(layout), PackedLayout::current_version);
}

/// The tensor of a layer, or an absent one. Throws where its type or shape is another.
Tensor tensor_of(const SafetensorsFile& file, int layer, const char* name, std::initializer_list<DType> dtypes,
                 std::initializer_list<std::int64_t> shape) {
    const std::string full = formats::packed_name(layer, name);
    if (!file.contains(full)) return {};
    const Tensor tensor = file.tensor(full);
    bool fits = std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end() &&
                tensor.rank == static_cast<int>(shape.size());
    int dimension = 0;
    for (const std::int64_t size : shape) {
        fits = fits && (size < 0 || tensor.size(dimension) == size);
        ++dimension;
    }
    if (!fits)
        fail(ErrorCode::parse, "{}: tensor {}: is {}, which the metadata of layer {} contradicts", file.path(),
             display_name(full), to_string(tensor), layer);
    return tensor;
}

PackedLayer read_layer(const SafetensorsFile& file, int number, const std::string& text) {
    PackedLayer layer = formats::parse_layer(file.path(), number, text);
    const std::initializer_list<DType> routers = {DType::bf16, DType::f16, DType::f32};
    const auto bytes = [](const PackedLayout& layout) { return static_cast<std::int64_t>(layout.matrix_bytes); };
    const std::int64_t experts = layer.num_experts;
    layer.gate_up = tensor_of(file, number, "gate_up", {DType::u8}, {experts, bytes(layer.gate_up_layout)});
    layer.down = tensor_of(file, number, "down", {DType::u8}, {experts, bytes(layer.down_layout)});
    layer.gate_up_bias = tensor_of(file, number, "gate_up_bias", {DType::bf16}, {experts, 2 * layer.intermediate});
    layer.down_bias = tensor_of(file, number, "down_bias", {DType::bf16}, {experts, layer.hidden});
    layer.router_weight = tensor_of(file, number, "router_weight", routers, {-1, layer.hidden});
    layer.router_bias = tensor_of(file, number, "router_bias", routers, {-1});
    for (const auto& [name, tensor] : {std::pair("gate_up", &layer.gate_up), std::pair("down", &layer.down)}) {
        if (!tensor->present)
            fail(ErrorCode::parse, "{}: tensor {}: is missing", file.path(),
                 display_name(formats::packed_name(number, name)));
        if (reinterpret_cast<std::uintptr_t>(tensor->data) % 128 != 0)
            fail(ErrorCode::parse, "{}: tensor {}: does not begin at a multiple of 128 bytes", file.path(),
                 display_name(formats::packed_name(number, name)));
    }
    return layer;
}

}  // namespace

struct PackedFile::Impl {
    explicit Impl(const std::string& path) : file(SafetensorsFile::open(path)) {
        check_versions(file);
        for (const auto& [key, text] : file.metadata()) {
            const std::string prefix = "layer.";
            if (!key.starts_with(prefix)) continue;
            int number = 0;
            const char* const end = key.data() + key.size();
            const auto [at, error] = std::from_chars(key.data() + prefix.size(), end, number);
            if (error != std::errc() || at != end || number < 0 || key != formats::layer_key(number))
                fail(ErrorCode::parse, "{}: metadata: {} names no layer", path, display_name(key));
            layers.push_back(read_layer(file, number, text));
        }
        std::sort(layers.begin(), layers.end(),
                  [](const PackedLayer& a, const PackedLayer& b) { return a.layer < b.layer; });
    }

    SafetensorsFile file;
    std::vector<PackedLayer> layers;
};

PackedFile PackedFile::open(const std::string& path) {
    PackedFile file;
    file.impl_ = std::make_shared<const Impl>(path);
    return file;
}

const std::string& PackedFile::path() const noexcept {
    static const std::string none;
    return impl_ ? impl_->file.path() : none;
}

std::span<const PackedLayer> PackedFile::layers() const noexcept {
    return impl_ ? std::span<const PackedLayer>(impl_->layers) : std::span<const PackedLayer>();
}

const PackedLayer& PackedFile::layer(int number) const {
    std::string known;
    for (const PackedLayer& layer : layers()) {
        if (layer.layer == number) return layer;
        known += (known.empty() ? "" : ", ") + std::to_string(layer.layer);
    }
    invalid("{}: has no layer {}, only {}", path(), number, known);
}

}  // namespace tokamak
