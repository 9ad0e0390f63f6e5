// SPDX-License-Identifier: Apache-2.0
// The text of a store. Pure functions of it, but for the warnings.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/config_store.h"
#include "core/json_depth.h"
#include "core/log.h"
#include "core/throw.h"

namespace tokamak {
namespace {

using nlohmann::json;

/// What a malformed part of an entry throws; caught at the entry.
struct Malformed {};

const json& member(const json& object, const char* name, bool (json::*is)() const noexcept) {
    const auto found = object.find(name);
    if (found == object.end() || !((*found).*is)()) throw Malformed();
    return *found;
}

std::string text_of(const json& object, const char* name) { return member(object, name, &json::is_string); }

double positive(const json& object, const char* name) {
    const double value = member(object, name, &json::is_number);
    if (!std::isfinite(value) || value <= 0) throw Malformed();
    return value;
}

std::int64_t bucket_of(const std::string& text) {
    std::int64_t tokens = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
    if (error != std::errc() || end != text.data() + text.size() || tokens < 1) throw Malformed();
    return tokens;
}

/// Ascending; no bucket stands twice.
TunedTable parse_table(const json& buckets) {
    TunedTable table;
    for (const auto& [bucket, variant] : buckets.items()) {
        if (!variant.is_string()) throw Malformed();
        table.push_back({bucket_of(bucket), variant.get<std::string>()});
    }
    std::sort(table.begin(), table.end(), [](const TunedRow& a, const TunedRow& b) { return a.tokens < b.tokens; });
    const auto same_bucket = [](const TunedRow& a, const TunedRow& b) { return a.tokens == b.tokens; };
    if (std::adjacent_find(table.begin(), table.end(), same_bucket) != table.end()) throw Malformed();
    return table;
}

void parse_measured(const json& measured, TunedTable& table) {
    if (!measured.is_object()) throw Malformed();
    for (const auto& [bucket, values] : measured.items()) {
        const std::int64_t tokens = bucket_of(bucket);
        const auto row =
            std::find_if(table.begin(), table.end(), [&](const TunedRow& r) { return r.tokens == tokens; });
        if (row == table.end() || !values.is_object()) throw Malformed();
        row->us = positive(values, "us");
        if (values.contains("build")) row->build = text_of(values, "build");
        if (!values.contains("runner_up")) continue;
        row->runner_up = text_of(values, "runner_up");
        row->runner_up_us = positive(values, "runner_up_us");
    }
}

std::map<std::string, FailedVariant> parse_failed(const json& failed) {
    if (!failed.is_object()) throw Malformed();
    std::map<std::string, FailedVariant> all;
    for (const auto& [variant, why] : failed.items()) {
        if (!why.is_object()) throw Malformed();
        const auto tokens = member(why, "tokens", &json::is_number_unsigned).get<std::uint64_t>();
        if (tokens > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) throw Malformed();
        all[variant] = {text_of(why, "build"), static_cast<std::int64_t>(tokens), text_of(why, "error")};
    }
    return all;
}

StoreEntry parse_entry(const json& entry) {
    StoreEntry parsed{.table = parse_table(member(entry, "table", &json::is_object)), .failed = {}};
    if (entry.contains("measured")) parse_measured(entry.at("measured"), parsed.table);
    if (entry.contains("failed")) parsed.failed = parse_failed(entry.at("failed"));
    if (parsed.table.empty() && parsed.failed.empty()) throw Malformed();
    return parsed;
}

json to_json(const StoreEntry& entry) {
    json result = {{"table", json::object()}};
    for (const TunedRow& row : entry.table) {
        const std::string bucket = std::to_string(row.tokens);
        result["table"][bucket] = row.variant;
        if (row.us <= 0) continue;
        json& measured = result["measured"][bucket];
        measured["us"] = row.us;
        if (!row.build.empty()) measured["build"] = row.build;
        if (row.runner_up.empty()) continue;
        measured["runner_up"] = row.runner_up;
        measured["runner_up_us"] = row.runner_up_us;
    }
    for (const auto& [variant, why] : entry.failed)
        result["failed"][variant] = {{"build", why.build}, {"tokens", why.tokens}, {"error", why.error}};
    return result;
}

}  // namespace

std::optional<ConfigStore> ConfigStore::parse_strictly(std::string_view text, const std::string& origin) {
    const json document = nests_deeper(text) ? json() : json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!document.is_object() || document.value("tokamak_store", json()) != json(1) || !document.contains("entries") ||
        !document.at("entries").is_array())
        return std::nullopt;
    ConfigStore store;
    std::size_t index = 0;
    for (const json& entry : document.at("entries")) {
        try {
            if (!entry.is_object()) throw Malformed();
            const std::pair key(text_of(entry, "device"), text_of(entry, "problem"));
            store.entries_[key] = parse_entry(entry);
        } catch (const Malformed&) {
            warn(fmt::format("{}: entry {} is malformed; ignored", origin, index));
        }
        ++index;
    }
    return store;
}

ConfigStore ConfigStore::parse(std::string_view text, const std::string& origin) {
    if (auto store = parse_strictly(text, origin)) return *std::move(store);
    warn(origin + ": not a Tokamak configuration store of version 1; ignored");
    return {};
}

std::string ConfigStore::to_json() const {
    json entries = json::array();
    for (const auto& [key, entry] : entries_) {
        json one = tokamak::to_json(entry);
        one["device"] = key.first;
        one["problem"] = key.second;
        entries.push_back(std::move(one));
    }
    return json{{"tokamak_store", 1}, {"entries", std::move(entries)}}.dump(1, ' ', false,
                                                                            json::error_handler_t::replace) +
           "\n";
}

}  // namespace tokamak
