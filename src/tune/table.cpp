// SPDX-License-Identifier: Apache-2.0
// Tunings as entries of a configuration store.
#include <cmath>

#include "core/config_store.h"
#include "tokamak/tune.h"

namespace tokamak::tune {
namespace {

/// To a nanosecond: no measurement says more.
double rounded(double us) { return std::round(us * 1e3) / 1e3; }

ConfigStore store_of(std::span<const Tuning> tunings) {
    ConfigStore all;
    for (const Tuning& tuning : tunings) {
        ConfigStore one;
        TunedTable table;
        for (const Row& row : tuning.rows)
            table.push_back(
                {row.tokens, row.variant, rounded(row.us), row.runner_up, rounded(row.runner_up_us), tuning.build});
        if (!table.empty()) one.set(tuning.device, tuning.problem, std::move(table));
        for (const Skipped& failure : tuning.failed)
            one.set_failed(tuning.device, tuning.problem, failure.variant,
                           {tuning.build, failure.tokens, failure.reason});
        all.merge(one);
    }
    return all;
}

}  // namespace

std::string serialize(std::span<const Tuning> tunings) { return store_of(tunings).to_json(); }

std::size_t install(std::string_view serialized, const std::string& origin) {
    const ConfigStore store = ConfigStore::parse(serialized, origin);
    ConfigStore::install(store);
    return store.size();
}

void save(std::span<const Tuning> tunings, const std::string& path) { store_of(tunings).save_merged(path); }

}  // namespace tokamak::tune
