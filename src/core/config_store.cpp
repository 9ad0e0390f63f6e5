// SPDX-License-Identifier: Apache-2.0
#include "core/config_store.h"

#include <algorithm>

#include "core/shipped_configs.h"
#include "tokamak/tune.h"

namespace tokamak {
namespace {

bool has_row(const TunedTable& table, const std::string& variant) {
    return std::any_of(table.begin(), table.end(), [&](const TunedRow& row) { return row.variant == variant; });
}

/// A row between two buckets says where the border between other kernels' winners lay. Newer rows around it that were
/// measured with these kernels have found the border anew.
bool is_old_border(const TunedRow& row, const TunedTable& newer) {
    const auto above =
        std::find_if(newer.begin(), newer.end(), [&](const auto& other) { return other.tokens > row.tokens; });
    if (above == newer.begin() || above == newer.end() || above->build == row.build) return false;
    const std::vector<std::int64_t> buckets = tune::token_buckets(row.tokens + 1);  // ends with that count
    return std::find(buckets.begin(), buckets.end() - 1, row.tokens) == buckets.end() - 1;
}

void merge_table(TunedTable& table, const TunedTable& newer) {
    TunedTable merged = newer;
    for (TunedRow& row : table) {
        const bool replaced =
            std::any_of(newer.begin(), newer.end(), [&](const TunedRow& other) { return other.tokens == row.tokens; });
        if (!replaced && !is_old_border(row, newer)) merged.push_back(std::move(row));
    }
    std::sort(merged.begin(), merged.end(), [](const TunedRow& a, const TunedRow& b) { return a.tokens < b.tokens; });
    table = std::move(merged);
}

}  // namespace

const ConfigStore& ConfigStore::shipped() {
    static const ConfigStore store = [] {
        ConfigStore all;
        for (const ShippedConfig& config : shipped_configs()) all.merge(parse(config.text, config.name));
        return all;
    }();
    return store;
}

void ConfigStore::set(const std::string& device, const std::string& problem, TunedTable table) {
    entries_[{device, problem}].table = std::move(table);
}

void ConfigStore::set_failed(const std::string& device, const std::string& problem, const std::string& variant,
                             FailedVariant failure) {
    entries_[{device, problem}].failed[variant] = std::move(failure);
}

void ConfigStore::merge(const ConfigStore& newer) {
    for (const auto& [key, entry] : newer.entries_) {
        StoreEntry& mine = entries_[key];
        for (const auto& [variant, failure] : entry.failed) {
            const auto of_variant = [&name = variant](const TunedRow& row) { return row.variant == name; };
            mine.table.erase(std::remove_if(mine.table.begin(), mine.table.end(), of_variant), mine.table.end());
            mine.failed[variant] = failure;
        }
        for (auto failed = mine.failed.begin(); failed != mine.failed.end();)
            failed = has_row(entry.table, failed->first) ? mine.failed.erase(failed) : std::next(failed);
        merge_table(mine.table, entry.table);
    }
}

const StoreEntry* ConfigStore::entry(const std::string& device, const std::string& problem) const noexcept {
    const auto found = entries_.find({device, problem});
    return found == entries_.end() ? nullptr : &found->second;
}

const TunedTable* ConfigStore::find(const std::string& device, const std::string& problem) const noexcept {
    const StoreEntry* found = entry(device, problem);
    return found == nullptr ? nullptr : &found->table;
}

}  // namespace tokamak
