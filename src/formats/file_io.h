// SPDX-License-Identifier: Apache-2.0
// Whole reads and writes at a place in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace tokamak::formats {

/// Throws `io`: "<path>: <what>: <reason of errno>".
[[noreturn]] void fail_with_errno(const std::string& path, const char* what, int number);

/// An open file with its name for messages.
class OpenFile {
  public:
    OpenFile() = default;
    /// Throws `io`. `flags` as of open(2); O_CLOEXEC is added.
    OpenFile(std::string path, int flags);
    ~OpenFile();
    OpenFile(OpenFile&& other) noexcept
        : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
    OpenFile& operator=(OpenFile&& other) noexcept {
        std::swap(path_, other.path_);
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }

    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::uint64_t size() const;
    /// Throws `parse` where the file ends before.
    void read_at(std::uint64_t offset, void* data, std::size_t bytes) const;
    void write_at(std::uint64_t offset, const void* data, std::size_t bytes) const;
    void resize(std::uint64_t bytes) const;
    /// Returns when the data is on the disk.
    void sync() const;

  private:
    std::string path_;
    int descriptor_ = -1;
};

/// 64-bit checksum of bytes: against accidents, not against malice.
std::uint64_t checksum(const void* data, std::size_t bytes, std::uint64_t seed) noexcept;

}  // namespace tokamak::formats
