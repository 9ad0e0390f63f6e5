// SPDX-License-Identifier: Apache-2.0
#include "core/config_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/environment.h"
#include "core/log.h"
#include "core/shipped_configs.h"
#include "core/throw.h"

namespace tokamak {
namespace {

using nlohmann::json;

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

/// The table of one entry, or an empty one if any bucket or variant is malformed or a bucket stands twice.
TunedTable parse_table(const json& entry) {
    TunedTable table;
    for (const auto& [bucket, variant] : entry.at("table").items()) {
        std::int64_t tokens = 0;
        const auto [end, error] = std::from_chars(bucket.data(), bucket.data() + bucket.size(), tokens);
        if (error != std::errc() || end != bucket.data() + bucket.size() || tokens < 1 || !variant.is_string())
            return {};
        table.emplace_back(tokens, variant.get<std::string>());
    }
    std::sort(table.begin(), table.end());
    const auto same_bucket = [](const auto& a, const auto& b) { return a.first == b.first; };
    if (std::adjacent_find(table.begin(), table.end(), same_bucket) != table.end()) return {};
    return table;
}

}  // namespace

ConfigStore ConfigStore::parse(std::string_view text, const std::string& origin) {
    ConfigStore store;
    const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!document.is_object() || document.value("tokamak_store", json()) != json(1) || !document.contains("entries") ||
        !document.at("entries").is_array()) {
        warn(origin + ": not a Tokamak configuration store of version 1; ignored");
        return store;
    }
    std::size_t index = 0;
    for (const json& entry : document.at("entries")) {
        const bool named = entry.is_object() && entry.contains("device") && entry.at("device").is_string() &&
                           entry.contains("problem") && entry.at("problem").is_string() && entry.contains("table") &&
                           entry.at("table").is_object();
        TunedTable table = named ? parse_table(entry) : TunedTable();
        if (table.empty())
            warn(fmt::format("{}: entry {} is malformed; ignored", origin, index));
        else
            store.set(entry.at("device").get<std::string>(), entry.at("problem").get<std::string>(), std::move(table));
        ++index;
    }
    return store;
}

ConfigStore ConfigStore::load(const std::string& path) {
    if (!version_of(path).exists) return {};
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    // An empty file reads as no characters, which is a failure of `<<` but no error of the file.
    if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
    if (!file.is_open() || file.bad() || text.bad()) {
        warn(path + ": the configuration store could not be read; ignored");
        return {};
    }
    return parse(text.str(), path);
}

const ConfigStore& ConfigStore::shipped() {
    static const ConfigStore store = [] {
        ConfigStore all;
        for (const ShippedConfig& config : shipped_configs()) {
            ConfigStore one = parse(config.text, config.name);
            all.entries_.merge(one.entries_);
        }
        return all;
    }();
    return store;
}

std::shared_ptr<const ConfigStore> ConfigStore::user() {
    static std::mutex mutex;
    static std::string cached_path;
    static FileVersion cached_version;
    static std::shared_ptr<const ConfigStore> cached = std::make_shared<ConfigStore>();

    const std::string path = environment::get(environment::kConfigStore).value_or("");
    const std::lock_guard lock(mutex);
    // Looked at before it is read: a file that is replaced in between is read again the next time.
    const FileVersion version = version_of(path);
    if (path != cached_path || version != cached_version) {
        cached = std::make_shared<ConfigStore>(version.exists ? load(path) : ConfigStore());
        cached_path = path;
        cached_version = version;
    }
    return cached;
}

void ConfigStore::set(const std::string& device, const std::string& problem, TunedTable table) {
    entries_[{device, problem}] = std::move(table);
}

const TunedTable* ConfigStore::find(const std::string& device, const std::string& problem) const noexcept {
    const auto found = entries_.find({device, problem});
    return found == entries_.end() ? nullptr : &found->second;
}

std::string ConfigStore::to_json() const {
    json entries = json::array();
    for (const auto& [key, table] : entries_) {
        json buckets = json::object();
        for (const auto& [tokens, variant] : table) buckets[std::to_string(tokens)] = variant;
        entries.push_back({{"device", key.first}, {"problem", key.second}, {"table", std::move(buckets)}});
    }
    return json{{"tokamak_store", 1}, {"entries", std::move(entries)}}.dump(1, ' ', false,
                                                                            json::error_handler_t::replace) +
           "\n";
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

}  // namespace tokamak
