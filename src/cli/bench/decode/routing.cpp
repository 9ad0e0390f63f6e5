// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

using Random = std::mt19937_64;

std::vector<std::int32_t> shuffled(int experts, Random& random) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    return order;
}

/// The first `top_k` of a partial shuffle.
void draw_uniform(std::vector<std::int32_t>& order, std::span<std::int32_t> token, Random& random) {
    for (std::size_t j = 0; j < token.size(); ++j) {
        std::uniform_int_distribution<std::size_t> pick(j, order.size() - 1);
        std::swap(order[j], order[pick(random)]);
        token[j] = order[j];
    }
}

/// The largest of log-popularity plus Gumbel noise: draws without replacement by popularity.
void draw_zipf(const std::vector<std::int32_t>& by_rank, std::span<std::int32_t> token, Random& random) {
    std::vector<std::pair<double, std::int32_t>> keys;
    std::uniform_real_distribution<double> uniform(1e-12, 1.0);
    for (std::size_t rank = 0; rank < by_rank.size(); ++rank)
        keys.emplace_back(std::log(static_cast<double>(rank + 1)) + std::log(-std::log(uniform(random))),
                          by_rank[rank]);
    const auto middle = keys.begin() + static_cast<std::ptrdiff_t>(token.size());
    std::partial_sort(keys.begin(), middle, keys.end());
    for (std::size_t j = 0; j < token.size(); ++j) token[j] = keys[j].second;
}

}  // namespace

const char* to_string(Routing routing) noexcept {
    switch (routing) {
        case Routing::uniform: return "uniform";
        case Routing::balanced: return "balanced";
        case Routing::zipf: return "zipf";
    }
    return "";
}

Routing parse_routing(std::string_view name) {
    for (const Routing routing : {Routing::uniform, Routing::balanced, Routing::zipf})
        if (name == to_string(routing)) return routing;
    fail(ErrorCode::parse, "unknown routing '{}', known: uniform, balanced, zipf", name);
}

std::vector<std::int32_t> random_routes(Routing routing, std::int64_t tokens, int experts, int top_k,
                                        std::uint64_t seed) {
    if (top_k > experts) invalid("bench: {} different experts out of {}", top_k, experts);
    Random random(seed);
    std::vector<std::int32_t> order = shuffled(experts, random);
    const auto width = static_cast<std::size_t>(top_k);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens) * width);
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
        const std::span<std::int32_t> token(ids.data() + t * width, width);
        if (routing == Routing::uniform) {
            draw_uniform(order, token, random);
        } else if (routing == Routing::zipf) {
            draw_zipf(order, token, random);
        } else {
            for (std::size_t j = 0; j < width; ++j) token[j] = order[(t * width + j) % order.size()];
        }
    }
    return ids;
}

std::int64_t count_active(std::span<const std::int32_t> ids, int experts) {
    std::vector<bool> seen(static_cast<std::size_t>(experts));
    for (const std::int32_t id : ids)
        if (id < experts) seen[static_cast<std::size_t>(id)] = true;
    return std::count(seen.begin(), seen.end(), true);
}

}  // namespace tokamak::cli::bench
