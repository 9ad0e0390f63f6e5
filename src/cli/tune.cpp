// SPDX-License-Identifier: Apache-2.0
#include "tokamak/tune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "cli/commands.h"

namespace tokamak::cli {
namespace {

struct Options {
    std::int64_t max_tokens = 0;
    std::vector<std::int64_t> counts;
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

void add_max_tokens(CLI::App& command, Options& options) {
    command.add_option("--max-tokens", options.max_tokens, "Largest token count of a call")
        ->required()
        ->check(CLI::PositiveNumber);
}

}  // namespace

void add_tune(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* tune = app.add_subcommand("tune", "Token buckets, by which configurations are chosen");
    tune->require_subcommand(1);

    CLI::App* buckets = tune->add_subcommand("buckets", "Print the token buckets of a plan, ascending, on one line");
    add_max_tokens(*buckets, *options);
    buckets->callback([options, &status] {
        print_line(tune::token_buckets(options->max_tokens));
        status = 0;
    });

    CLI::App* map = tune->add_subcommand("map", "Print the bucket that each token count falls into, on one line");
    add_max_tokens(*map, *options);
    map->add_option("COUNT", options->counts, "Token counts")->required()->check(CLI::NonNegativeNumber);
    map->callback([options, &status] {
        print_map(*options);
        status = 0;
    });
}

}  // namespace tokamak::cli
