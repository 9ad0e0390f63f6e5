// SPDX-License-Identifier: Apache-2.0
// Expert ids for benchmarks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::cli::bench {

enum class Routing : std::uint8_t {
    uniform,   ///< each token draws different experts, all equally likely
    balanced,  ///< a token takes the next experts of a shuffled ring: all are used equally often
    zipf,      ///< different experts by popularity 1/rank, ranks shuffled
};

const char* to_string(Routing routing) noexcept;
/// Throws `parse` naming the known ones.
Routing parse_routing(std::string_view name);

/// [tokens, top_k] ids, different experts in each token; the same for the same seed, and the ids of fewer tokens are
/// the first of those of more. The first `local` experts (0: all) get their share of the routes, which is what a rank
/// of expert parallelism has to expect: with zipf they are spread over the ranks of popularity for it.
std::vector<std::int32_t> random_routes(Routing routing, std::int64_t tokens, int experts, int top_k,
                                        std::uint64_t seed, int local = 0);

/// Different experts below `experts` in `ids`, and how many of the ids name one.
std::int64_t count_active(std::span<const std::int32_t> ids, int experts);
std::int64_t count_routes(std::span<const std::int32_t> ids, int experts);

}  // namespace tokamak::cli::bench
