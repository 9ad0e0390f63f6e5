// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "core/throw.h"
#include "formats/mapped_file.h"
#include "formats/safetensors_header.h"
#include "tokamak/checkpoint.h"

namespace tokamak {

struct SafetensorsFile::Impl {
    explicit Impl(const std::string& path) : path(path), file(path) {
        const auto bytes = file.bytes();
        if (bytes.size() < formats::kHeaderPrefix)
            fail(ErrorCode::parse, "{}: has {} bytes, a safetensors file has at least {}", path, bytes.size(),
                 formats::kHeaderPrefix);
        std::uint64_t length = 0;
        std::memcpy(&length, bytes.data(), sizeof length);
        if (length > formats::kMaxHeaderBytes)
            fail(ErrorCode::parse, "{}: header of {} bytes, at most {} are allowed: not a safetensors file", path,
                 length, formats::kMaxHeaderBytes);
        const std::size_t rest = bytes.size() - formats::kHeaderPrefix;
        if (length > rest)
            fail(ErrorCode::parse, "{}: header of {} bytes, but only {} bytes follow its length: truncated", path,
                 length, rest);
        const auto* text = reinterpret_cast<const char*>(bytes.data()) + formats::kHeaderPrefix;
        data = bytes.subspan(formats::kHeaderPrefix + static_cast<std::size_t>(length));
        header = formats::parse_safetensors_header(path, {text, static_cast<std::size_t>(length)}, data.size());
        for (const auto& entry : header.tensors) names.push_back(entry.name);
    }

    [[nodiscard]] const formats::TensorEntry* find(const std::string& name) const noexcept {
        const auto found = std::lower_bound(names.begin(), names.end(), name);
        if (found == names.end() || *found != name) return nullptr;
        return &header.tensors[static_cast<std::size_t>(found - names.begin())];
    }

    std::string path;
    formats::MappedFile file;
    formats::SafetensorsHeader header;
    std::vector<std::string> names;
    std::span<const std::byte> data;
};

SafetensorsFile SafetensorsFile::open(const std::string& path) {
    SafetensorsFile file;
    file.impl_ = std::make_shared<const Impl>(path);
    return file;
}

std::span<const std::string> SafetensorsFile::names() const noexcept {
    return impl_ ? std::span<const std::string>(impl_->names) : std::span<const std::string>();
}

const std::string& SafetensorsFile::path() const noexcept {
    static const std::string none;
    return impl_ ? impl_->path : none;
}

bool SafetensorsFile::contains(const std::string& name) const noexcept { return impl_ && impl_->find(name) != nullptr; }

Tensor SafetensorsFile::tensor(const std::string& name) const {
    const formats::TensorEntry* entry = impl_ ? impl_->find(name) : nullptr;
    if (entry == nullptr) invalid("{}: has no tensor {}", path(), formats::display_name(name));
    return formats::describe_entry(path(), *entry, impl_->data.data() + entry->begin);
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const noexcept {
    static const std::map<std::string, std::string> none;
    return impl_ ? impl_->header.metadata : none;
}

}  // namespace tokamak
