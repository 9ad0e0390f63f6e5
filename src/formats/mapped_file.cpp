// SPDX-License-Identifier: Apache-2.0
#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/throw.h"

namespace tokamak::formats {
namespace {

[[noreturn]] void fail_with_errno(const std::string& path, const char* what, int number) {
    fail(ErrorCode::io, "{}: {}: {}", path, what, std::generic_category().message(number));
}

/// Closes a descriptor at the end of a scope; the mapping outlives it.
struct Descriptor {
    int value;
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.value < 0) fail_with_errno(path, "cannot be opened", errno);
    struct stat status {};
    if (::fstat(file.value, &status) != 0) fail_with_errno(path, "cannot be examined", errno);
    if (S_ISDIR(status.st_mode)) fail(ErrorCode::io, "{}: is a directory, expected a file", path);
    if (!S_ISREG(status.st_mode)) fail(ErrorCode::io, "{}: is not a regular file", path);
    if (status.st_size == 0) return;
    const auto size = static_cast<std::size_t>(status.st_size);
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
    if (memory == MAP_FAILED) fail_with_errno(path, "cannot be mapped", errno);
    bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace tokamak::formats
