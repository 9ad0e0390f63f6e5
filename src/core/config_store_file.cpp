// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <sstream>

#include "core/config_store.h"
#include "core/environment.h"
#include "core/log.h"
#include "core/throw.h"

namespace tokamak {
namespace {

/// What tells the versions of a file apart: a replaced file has another inode, an edited one another size or time.
struct FileVersion {
    bool exists = false;
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = 0;
    std::int64_t seconds = 0;
    std::int64_t nanoseconds = 0;
    friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

FileVersion version_of(const std::string& path) {
    struct stat status {};
    if (path.empty() || stat(path.c_str(), &status) != 0) return {};
    return {true, status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

/// None if the file cannot be read.
std::optional<std::string> content_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    // An empty file reads as no characters, which is a failure of `<<` but no error of the file.
    if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
    if (!file.is_open() || file.bad() || text.bad()) return std::nullopt;
    return text.str();
}

/// Held while it lives; waits for its turn. Other threads count as other processes.
class FileLock {
  public:
    explicit FileLock(const std::string& path) : file_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
        while (file_ >= 0 && flock(file_, LOCK_EX) != 0)
            if (errno != EINTR) break_with(path);
        if (file_ < 0) break_with(path);
    }
    ~FileLock() { close(file_); }
    FileLock(const FileLock&) = delete;
    FileLock& operator=(const FileLock&) = delete;

  private:
    [[noreturn]] void break_with(const std::string& path) const {
        const std::string why = std::strerror(errno);
        if (file_ >= 0) close(file_);
        fail(ErrorCode::io, "config store: could not save: lock `{}`: {}", path, why);
    }

    int file_;
};

/// The user's file as it was read last, and what this process installed.
struct UserStore {
    std::mutex mutex;
    std::string path;
    FileVersion version;
    ConfigStore file;
    ConfigStore installed;
    std::shared_ptr<const ConfigStore> both = std::make_shared<ConfigStore>();

    void join() {
        auto joined = std::make_shared<ConfigStore>(file);
        joined->merge(installed);
        both = std::move(joined);
    }
};

UserStore& user_store() {
    static UserStore store;
    return store;
}

}  // namespace

ConfigStore ConfigStore::load(const std::string& path) {
    if (!version_of(path).exists) return {};
    const auto text = content_of(path);
    if (text) return parse(*text, path);
    warn(path + ": the configuration store could not be read; ignored");
    return {};
}

std::shared_ptr<const ConfigStore> ConfigStore::user() {
    UserStore& store = user_store();
    const std::string path = environment::get(environment::kConfigStore).value_or("");
    const HeldWarnings held;  // told when the lock is gone
    const std::lock_guard lock(store.mutex);
    // Looked at before it is read: a file that is replaced in between is read again the next time.
    const FileVersion version = version_of(path);
    if (path != store.path || version != store.version) {
        store.file = version.exists ? load(path) : ConfigStore();
        store.path = path;
        store.version = version;
        store.join();
    }
    return store.both;
}

void ConfigStore::install(const ConfigStore& entries) {
    UserStore& store = user_store();
    const std::lock_guard lock(store.mutex);
    store.installed.merge(entries);
    store.join();
}

void ConfigStore::save(const std::string& path) const {
    // One name for each thread that may be saving to the same path.
    const std::string temporary = fmt::format("{}.{}.{}.partial", path, getpid(), gettid());
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << to_json();
    file.close();
    std::error_code error;
    if (file) std::filesystem::rename(temporary, path, error);
    if (file && !error) return;
    const std::string why = file ? error.message() : "could not write `" + temporary + "`";
    std::filesystem::remove(temporary, error);
    fail(ErrorCode::io, "config store: could not save `{}`: {}", path, why);
}

void ConfigStore::save_merged(const std::string& path) const {
    const FileLock lock(path + ".lock");
    ConfigStore all;
    if (version_of(path).exists) {
        const auto text = content_of(path);
        auto stored = text ? parse_strictly(*text, path) : std::nullopt;
        if (!stored)
            fail(ErrorCode::io, "config store: `{}` is no configuration store of version 1; not overwritten", path);
        all = *std::move(stored);
    }
    all.merge(*this);
    all.save(path);
}

}  // namespace tokamak
