// SPDX-License-Identifier: Apache-2.0
#include "formats/checkpoint_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/json_depth.h"
#include "core/throw.h"
#include "formats/file_io.h"
#include "formats/safetensors_header.h"

namespace tokamak::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// One safetensors file: its header and where its data begins.
struct Shard {
    OpenFile file;
    std::uint64_t data_begin = 0;
    SafetensorsHeader header;
};

Shard open_shard(const std::string& path) {
    Shard shard;
    shard.file = OpenFile(path, O_RDONLY | O_NONBLOCK);  // opening a pipe must not wait for a writer
    struct stat status {};
    if (::fstat(shard.file.descriptor(), &status) != 0) fail_with_errno(path, "cannot be examined", errno);
    if (!S_ISREG(status.st_mode)) fail(ErrorCode::io, "{}: is not a regular file", path);
    const std::uint64_t size = shard.file.size();
    if (size < kHeaderPrefix)
        fail(ErrorCode::parse, "{}: has {} bytes, a safetensors file has at least {}", path, size, kHeaderPrefix);
    std::uint64_t length = 0;
    shard.file.read_at(0, &length, sizeof length);
    if (length > kMaxHeaderBytes || length > size - kHeaderPrefix)
        fail(ErrorCode::parse, "{}: header of {} bytes in a file of {}: truncated or not a safetensors file", path,
             length, size);
    std::string text(static_cast<std::size_t>(length), '\0');
    shard.file.read_at(kHeaderPrefix, text.data(), text.size());
    shard.data_begin = kHeaderPrefix + length;
    shard.header = parse_safetensors_header(path, text, size - shard.data_begin);
    return shard;
}

std::uint64_t identity_of(const Shard& shard, std::uint64_t seed) {
    struct stat status {};
    if (::fstat(shard.file.descriptor(), &status) != 0) fail_with_errno(shard.file.path(), "cannot be examined", errno);
    const std::int64_t numbers[] = {status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
    const std::string name = fs::path(shard.file.path()).filename().string();
    return checksum(name.data(), name.size(), checksum(numbers, sizeof numbers, seed));
}

/// A mapped range of a file, from a page's border on.
class MappedRange {
  public:
    MappedRange(const OpenFile& file, std::uint64_t offset, std::size_t bytes) {
        static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        before_ = static_cast<std::size_t>(offset % page);
        bytes_ = before_ + bytes;
        memory_ =
            ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.descriptor(), static_cast<::off_t>(offset - before_));
        if (memory_ == MAP_FAILED) fail_with_errno(file.path(), "cannot be mapped", errno);
        (void)::madvise(memory_, bytes_, MADV_WILLNEED);
    }
    ~MappedRange() { ::munmap(memory_, bytes_); }
    MappedRange(const MappedRange&) = delete;
    MappedRange& operator=(const MappedRange&) = delete;

    [[nodiscard]] const std::byte* data() const noexcept { return static_cast<const std::byte*>(memory_) + before_; }

  private:
    void* memory_ = nullptr;
    std::size_t before_ = 0;
    std::size_t bytes_ = 0;
};

class Files final : public CheckpointFiles {
  public:
    Files(std::string path, std::string folder, std::vector<Shard> shards)
        : path_(std::move(path)), folder_(std::move(folder)), shards_(std::move(shards)) {
        for (const Shard& shard : shards_) {
            identity_ = identity_of(shard, identity_);
            for (const TensorEntry& entry : shard.header.tensors)
                if (const auto [found, added] = tensors_.try_emplace(entry.name, Place{&shard, &entry}); !added)
                    fail(ErrorCode::parse, "{}: tensor {}: stands in {} too", shard.file.path(),
                         display_name(entry.name), found->second.shard->file.path());
        }
        for (const auto& [name, place] : tensors_) names_.push_back(name);
    }

    /// The index says where each tensor is: a shard must have what is expected of it.
    void check_index(const std::map<std::string, std::string>& index) const {
        for (const auto& [name, file] : index) {
            const auto found = tensors_.find(name);
            if (found == tensors_.end() || fs::path(found->second.shard->file.path()).filename() != file)
                fail(ErrorCode::parse, "{}: tensor {}: is not in {}", path_, display_name(name), display_name(file));
        }
    }

    [[nodiscard]] const std::string& path() const noexcept override { return path_; }
    [[nodiscard]] const std::string& folder() const noexcept override { return folder_; }
    [[nodiscard]] std::uint64_t identity() const noexcept override { return identity_; }
    [[nodiscard]] std::span<const std::string> names() const noexcept override { return names_; }
    [[nodiscard]] bool contains(const std::string& name) const noexcept override { return tensors_.count(name) > 0; }
    [[nodiscard]] Tensor describe(const std::string& name) const override {
        const Place& place = tensors_.at(name);
        return describe_entry(place.shard->file.path(), *place.entry, nullptr);
    }
    [[nodiscard]] Window window(const std::string& name, std::size_t offset, std::size_t bytes) const override {
        const Place& place = tensors_.at(name);
        if (bytes == 0) return {};
        auto range = std::make_shared<const MappedRange>(place.shard->file,
                                                         place.shard->data_begin + place.entry->begin + offset, bytes);
        const std::byte* data = range->data();
        return {data, std::move(range)};
    }

  private:
    struct Place {
        const Shard* shard;
        const TensorEntry* entry;
    };

    std::string path_;
    std::string folder_;
    std::vector<Shard> shards_;
    std::map<std::string, Place> tensors_;
    std::vector<std::string> names_;
    std::uint64_t identity_ = 1;
};

std::string read_text(const std::string& path) {
    const OpenFile file(path, O_RDONLY);
    constexpr std::uint64_t most = 1'000'000'000;
    if (file.size() > most) fail(ErrorCode::parse, "{}: {} bytes are no index", path, file.size());
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read_at(0, text.data(), text.size());
    return text;
}

std::shared_ptr<const Files> open_files(const std::string& path, const std::string& folder,
                                        const std::vector<std::string>& files) {
    std::vector<Shard> shards;
    for (const std::string& file : files) shards.push_back(open_shard(file));
    return std::make_shared<const Files>(path, folder, std::move(shards));
}

std::shared_ptr<const Files> open_index(const std::string& path) {
    const auto index = parse_checkpoint_index(read_text(path), path);
    const fs::path folder = fs::path(path).parent_path();
    std::vector<std::string> files;
    for (const auto& [name, file] : index) files.push_back((folder / file).string());
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    auto result = open_files(path, folder.string(), files);
    result->check_index(index);
    return result;
}

std::vector<std::string> safetensors_files(const std::string& folder) {
    std::vector<std::string> files;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
        if (at->path().extension() == ".safetensors") files.push_back(at->path().string());
    if (error) fail(ErrorCode::io, "{}: cannot be listed: {}", folder, error.message());
    std::sort(files.begin(), files.end());
    return files;
}

}  // namespace

std::map<std::string, std::string> parse_checkpoint_index(std::string_view text, const std::string& path) {
    const json document = nests_deeper(text) ? json() : json::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool object = document.is_object() && document.contains("weight_map");
    if (!object || !document.at("weight_map").is_object())
        fail(ErrorCode::parse, "{}: has no object \"weight_map\": not an index of a checkpoint", path);
    std::map<std::string, std::string> index;
    for (const auto& [name, file] : document.at("weight_map").items()) {
        if (!file.is_string()) fail(ErrorCode::parse, "{}: tensor {}: its file is no string", path, display_name(name));
        const auto& text_of_file = file.get_ref<const std::string&>();
        const bool plain = !text_of_file.empty() && text_of_file != "." && text_of_file != ".." &&
                           text_of_file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
        if (!plain)
            fail(ErrorCode::parse, "{}: tensor {}: its file is {}, expected the name of a file beside the index", path,
                 display_name(name), display_name(text_of_file));
        index[name] = text_of_file;
    }
    return index;
}

std::shared_ptr<const CheckpointFiles> CheckpointFiles::open(const std::string& path) {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored)) {
        if (path.ends_with(".json")) return open_index(path);
        return open_files(path, fs::path(path).parent_path().string(), {path});
    }
    const std::string index = (fs::path(path) / "model.safetensors.index.json").string();
    const std::string single = (fs::path(path) / "model.safetensors").string();
    if (fs::exists(index, ignored)) return open_index(index);
    if (fs::exists(single, ignored)) return open_files(path, path, {single});
    const std::vector<std::string> files = safetensors_files(path);
    if (files.empty()) fail(ErrorCode::io, "{}: holds no safetensors files", path);
    return open_files(path, path, files);
}

}  // namespace tokamak::formats
