// SPDX-License-Identifier: Apache-2.0
#include "formats/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/throw.h"
#include "formats/palette.h"

namespace tokamak::formats {
namespace {

constexpr std::size_t kMostPerCall = std::size_t{1} << 30;  // one call moves at most 2^31 bytes

}  // namespace

void fail_with_errno(const std::string& path, const char* what, int number) {
    fail(ErrorCode::io, "{}: {}: {}", path, what, std::generic_category().message(number));
}

OpenFile::OpenFile(std::string path, int flags)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), flags | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) fail_with_errno(path_, "cannot be opened", errno);
}

OpenFile::~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t OpenFile::size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_with_errno(path_, "cannot be examined", errno);
    return static_cast<std::uint64_t>(status.st_size);
}

void OpenFile::read_at(std::uint64_t offset, void* data, std::size_t bytes) const {
    for (auto* at = static_cast<char*>(data); bytes > 0;) {
        const ::ssize_t count = ::pread(descriptor_, at, std::min(bytes, kMostPerCall), static_cast<::off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail_with_errno(path_, "cannot be read", errno);
        if (count == 0) fail(ErrorCode::parse, "{}: ends at byte {}, {} more were expected", path_, offset, bytes);
        at += count;
        offset += static_cast<std::uint64_t>(count);
        bytes -= static_cast<std::size_t>(count);
    }
}

void OpenFile::write_at(std::uint64_t offset, const void* data, std::size_t bytes) const {
    for (const auto* at = static_cast<const char*>(data); bytes > 0;) {
        const ::ssize_t count = ::pwrite(descriptor_, at, std::min(bytes, kMostPerCall), static_cast<::off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail_with_errno(path_, "cannot be written", errno);
        at += count;
        offset += static_cast<std::uint64_t>(count);
        bytes -= static_cast<std::size_t>(count);
    }
}

void OpenFile::resize(std::uint64_t bytes) const {
    if (::ftruncate(descriptor_, static_cast<::off_t>(bytes)) != 0) fail_with_errno(path_, "cannot be resized", errno);
}

void OpenFile::sync() const {
    if (::fdatasync(descriptor_) != 0) fail_with_errno(path_, "cannot be written", errno);
}

std::uint64_t checksum(const void* data, std::size_t bytes, std::uint64_t seed) noexcept {
    // Four lanes, so that the multiplications overlap.
    std::array<std::uint64_t, 4> lanes = {seed, ~seed, mix_bits(seed), mix_bits(~seed)};
    std::array<std::uint64_t, 4> words{};
    const auto* at = static_cast<const std::byte*>(data);
    for (std::size_t left = bytes; left > 0;) {
        const std::size_t count = std::min(left, sizeof words);
        if (count < sizeof words) words.fill(0);
        std::memcpy(words.data(), at, count);
        for (std::size_t lane = 0; lane < lanes.size(); ++lane)
            lanes[lane] = std::rotl(lanes[lane] ^ words[lane] * 0x9E3779B97F4A7C15U, 29) * 0xBF58476D1CE4E5B9U;
        at += count;
        left -= count;
    }
    std::uint64_t sum = bytes;
    for (const std::uint64_t lane : lanes) sum = mix_bits(sum ^ lane);
    return sum;
}

}  // namespace tokamak::formats
