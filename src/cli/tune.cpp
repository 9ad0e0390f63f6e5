// SPDX-License-Identifier: Apache-2.0
#include "tokamak/tune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/number_check.h"
#include "cli/tuning/command.h"
#include "core/build_info.h"
#include "core/config_store.h"
#include "core/throw.h"

namespace tokamak::cli {
namespace {

struct Options {
    std::int64_t max_tokens = 0;
    std::vector<std::int64_t> counts;
    std::string store;
    std::vector<std::string> stores;
    std::string out;
};

void print_line(const std::vector<std::int64_t>& numbers) { fmt::print("{}\n", fmt::join(numbers, " ")); }

void print_map(const Options& options) {
    const auto buckets = tune::token_buckets(options.max_tokens);
    std::vector<std::int64_t> mapped;
    for (const std::int64_t count : options.counts) {
        const tune::Bucket bucket = tune::map_to_bucket(count, buckets);
        mapped.push_back(bucket.tokens);
        if (bucket.extrapolated)
            fmt::print(stderr, "tokamak: {} lies above the maximum of {}: nearest bucket taken\n", count,
                       options.max_tokens);
    }
    print_line(mapped);
}

void print_row(const TunedRow& row) {
    std::string measured;
    if (row.us > 0) measured = fmt::format("  {:.1f} us", row.us);
    if (row.us > 0 && !row.runner_up.empty())
        measured +=
            fmt::format("; next {} {:+.1f}%", printable(row.runner_up), (row.runner_up_us / row.us - 1.0) * 100.0);
    if (!row.build.empty() && row.build != build_info::cuda_sources_hash())
        measured += "; with other kernels, build " + printable(row.build);
    fmt::print("  tokens <= {:<6} {}{}\n", row.tokens, printable(row.variant), measured);
}

/// The shipped table where no file is named.
void print_store(const std::string& path) {
    const ConfigStore store = path.empty() ? ConfigStore::shipped() : ConfigStore::parse(read_text(path), path);
    for (const auto& [key, entry] : store.entries()) {
        fmt::print("{}: {}\n", printable(key.first), printable(key.second));
        for (const TunedRow& row : entry.table) print_row(row);
        for (const auto& [variant, failure] : entry.failed)
            fmt::print("  failed at {} tokens with build {}: {}: {}\n", failure.tokens, printable(failure.build),
                       printable(variant), printable(failure.error));
    }
    fmt::print("{} problems\n", store.size());
}

/// Later stores win over earlier ones, and all over what `out` holds.
void merge_stores(const std::vector<std::string>& paths, const std::string& out) {
    ConfigStore all;
    for (const std::string& path : paths) {
        const auto store = ConfigStore::parse_strictly(read_text(path), path);
        if (!store) fail(ErrorCode::parse, "{}: not a Tokamak configuration store of version 1", printable(path));
        all.merge(*store);
    }
    all.save_merged(out);
    fmt::print("{}: {} problems\n", printable(out), ConfigStore::load(out).size());
}

void add_store_commands(CLI::App& tune, const std::shared_ptr<Options>& options, int& status) {
    CLI::App* show =
        tune.add_subcommand("show", "Print a store of configurations; the one that comes with the library");
    show->add_option("STORE", options->store, "JSON file; default: the shipped table");
    show->callback([options, &status] {
        print_store(options->store);
        status = 0;
    });
    CLI::App* merge = tune.add_subcommand("merge", "Merge stores into a file; later ones win");
    merge->add_option("STORE", options->stores, "JSON files")->required();
    merge->add_option("--out", options->out, "File that they are merged into")->required();
    merge->callback([options, &status] {
        merge_stores(options->stores, options->out);
        status = 0;
    });
}

void add_max_tokens(CLI::App& command, Options& options) {
    command.add_option("--max-tokens", options.max_tokens, "Largest token count of a call")
        ->required()
        ->check(positive_number());
}

}  // namespace

void add_tune(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* tune = app.add_subcommand(
        "tune", "Measure configurations and keep the best; token buckets, and stores of what was found");
    tune->require_subcommand(1);

    CLI::App* buckets = tune->add_subcommand("buckets", "Print the token buckets of a plan, ascending, on one line");
    add_max_tokens(*buckets, *options);
    buckets->callback([options, &status] {
        print_line(tune::token_buckets(options->max_tokens));
        status = 0;
    });

    tuning::add_commands(*tune, status);
    add_store_commands(*tune, options, status);

    CLI::App* map = tune->add_subcommand("map", "Print the bucket that each token count falls into, on one line");
    add_max_tokens(*map, *options);
    map->add_option("COUNT", options->counts, "Token counts")->required()->check(nonnegative_number());
    map->callback([options, &status] {
        print_map(*options);
        status = 0;
    });
}

}  // namespace tokamak::cli
