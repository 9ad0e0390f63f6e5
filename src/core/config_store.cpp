// SPDX-License-Identifier: Apache-2.0
#include "core/config_store.h"

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

/// The table of one entry, or an empty one if any bucket or variant is malformed.
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
    std::ifstream file(path, std::ios::binary);
    if (!file) return {};
    std::ostringstream text;
    text << file.rdbuf();
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
    static std::filesystem::file_time_type cached_time;
    static std::shared_ptr<const ConfigStore> cached = std::make_shared<ConfigStore>();

    const std::string path = environment::get(environment::kConfigStore).value_or("");
    std::error_code error;
    const auto time = path.empty() ? std::filesystem::file_time_type() : std::filesystem::last_write_time(path, error);
    const std::lock_guard lock(mutex);
    if (path != cached_path || time != cached_time) {
        cached = std::make_shared<ConfigStore>(path.empty() ? ConfigStore() : load(path));
        cached_path = path;
        cached_time = time;
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
    return json{{"tokamak_store", 1}, {"entries", std::move(entries)}}.dump(1) + "\n";
}

void ConfigStore::save(const std::string& path) const {
    const std::string temporary = path + ".partial";
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << to_json();
    file.close();
    if (!file) fail(ErrorCode::io, "config store: could not write `{}`", temporary);
    std::error_code error;
    std::filesystem::rename(temporary, path, error);
    if (error) fail(ErrorCode::io, "config store: could not replace `{}`: {}", path, error.message());
}

}  // namespace tokamak
