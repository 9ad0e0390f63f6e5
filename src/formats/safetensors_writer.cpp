// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <system_error>
#include <utility>

#include "core/throw.h"
#include "formats/safetensors_header.h"
#include "tokamak/checkpoint.h"

namespace tokamak {
namespace formats {
namespace {

/// Members are joined as text: a JSON object that keeps its order would search all its names for each new one.
void add_member(std::string& object, const std::string& name, const nlohmann::ordered_json& value) {
    if (object.size() > 1) object += ",";
    object += nlohmann::ordered_json(name).dump() + ":" + value.dump();
}

}  // namespace

std::string make_safetensors_header(std::span<const NamedTensor> tensors,
                                    const std::map<std::string, std::string>& metadata, std::size_t alignment,
                                    const char* op) {
    std::string json = "{";
    std::size_t offset = 0;
    try {
        if (!metadata.empty()) add_member(json, kMetadataKey, metadata);
        for (const auto& [name, tensor] : tensors) {
            nlohmann::ordered_json entry;
            entry["dtype"] = safetensors_dtype(tensor.dtype);
            entry["shape"] = std::vector<std::int64_t>(tensor.shape.begin(), tensor.shape.begin() + tensor.rank);
            entry["data_offsets"] = {offset, offset + tensor.bytes()};
            add_member(json, name, entry);
            offset += tensor.bytes();
        }
    } catch (const nlohmann::json::exception&) {
        invalid("{}: a name or the metadata is not valid UTF-8", op);
    }
    json += "}";
    const std::size_t unpadded = kHeaderPrefix + json.size();
    json.append((alignment - unpadded % alignment) % alignment, ' ');
    const std::uint64_t length = json.size();
    if (length > kMaxHeaderBytes)
        invalid("{}: a header of {} bytes, at most {} are allowed", op, length, kMaxHeaderBytes);
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + json;
}

}  // namespace formats

namespace {

constexpr std::size_t kDataAlignment = 128;

void check_tensor(const NamedTensor& named, std::set<std::string>& names) {
    const std::string name = formats::display_name(named.name);
    if (named.name == formats::kMetadataKey) invalid("write_safetensors: no tensor can be called {}", name);
    if (!names.insert(named.name).second) invalid("write_safetensors: tensor {} occurs twice", name);
    const Tensor& tensor = named.tensor;
    if (!tensor.present) invalid("write_safetensors: tensor {} is absent", name);
    if (tensor.device.is_cuda())
        invalid("write_safetensors: tensor {} is on {}, expected cpu", name, to_string(tensor.device));
    if (!tensor.contiguous())
        invalid("write_safetensors: tensor {} is {}, expected a contiguous tensor", name, to_string(tensor));
    if (tensor.data == nullptr && tensor.bytes() > 0)
        invalid("write_safetensors: tensor {} is {} with null data", name, to_string(tensor));
}

/// A file that takes its name only on `commit`, and is removed if that never comes.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& path) : path_(path) {
        // The directory of the final name, because a rename is atomic only within a file system.
        temporary_ = fmt::format("{}.{:08x}.partial", path, std::random_device{}());
        descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor_ < 0) fail_with_errno("cannot be created");
    }
    ~TemporaryFile() {
        if (descriptor_ >= 0) ::close(descriptor_);
        if (!committed_) ::unlink(temporary_.c_str());
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    void write(const void* data, std::size_t bytes) {
        constexpr std::size_t most = std::size_t{1} << 30;  // one call writes at most 2^31 bytes
        for (const auto* at = static_cast<const char*>(data); bytes > 0;) {
            const ::ssize_t written = ::write(descriptor_, at, std::min(bytes, most));
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) fail_with_errno("cannot be written");
            at += written;
            bytes -= static_cast<std::size_t>(written);
        }
    }

    void commit() {
        const int closed = ::close(std::exchange(descriptor_, -1));
        if (closed != 0) fail_with_errno("cannot be written");
        if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno("cannot take its name");
        committed_ = true;
    }

  private:
    [[noreturn]] void fail_with_errno(const char* what) const {
        const int number = errno;
        fail(ErrorCode::io, "{}: {}: {}", path_, what, std::generic_category().message(number));
    }

    std::string path_;
    std::string temporary_;
    int descriptor_ = -1;
    bool committed_ = false;
};

}  // namespace

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
    std::set<std::string> names;
    for (const NamedTensor& named : tensors) check_tensor(named, names);
    const std::string header = formats::make_safetensors_header(tensors, metadata, kDataAlignment, "write_safetensors");
    TemporaryFile file(path);
    file.write(header.data(), header.size());
    for (const NamedTensor& named : tensors) file.write(named.tensor.data, named.tensor.bytes());
    file.commit();
}

}  // namespace tokamak
