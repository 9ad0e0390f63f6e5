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

/// Popularity 1/rank, summed up from the first rank on.
std::vector<double> popularity_sums(int experts) {
    std::vector<double> sums(static_cast<std::size_t>(experts));
    double sum = 0;
    for (std::size_t rank = 0; rank < sums.size(); ++rank) sums[rank] = sum += 1.0 / static_cast<double>(rank + 1);
    return sums;
}

/// Draws by popularity until there are enough different ones.
void draw_zipf(const std::vector<std::int32_t>& by_rank, const std::vector<double>& sums, std::span<std::int32_t> token,
               Random& random) {
    std::uniform_real_distribution<double> uniform(0.0, sums.back());
    for (std::size_t j = 0; j < token.size();) {
        const auto found = std::upper_bound(sums.begin(), sums.end() - 1, uniform(random));
        token[j] = by_rank[static_cast<std::size_t>(found - sums.begin())];
        if (std::find(token.begin(), token.begin() + static_cast<std::ptrdiff_t>(j), token[j]) ==
            token.begin() + static_cast<std::ptrdiff_t>(j))
            ++j;
    }
}

/// How likely each rank is among `top_k` different draws, approximately: 1 - (1 - p)^n with n so that they sum up.
std::vector<double> expected_hits(const std::vector<double>& sums, int top_k) {
    std::vector<double> hits(sums.size());
    const auto total = [&](double draws) {
        double all = 0;
        for (std::size_t rank = 0; rank < sums.size(); ++rank) {
            const double share = 1.0 / static_cast<double>(rank + 1) / sums.back();
            all += hits[rank] = -std::expm1(draws * std::log1p(-std::min(share, 1.0 - 1e-12)));
        }
        return all;
    };
    double low = 0;
    double high = 1;
    while (high < 1e9 && total(high) < top_k) high *= 2;
    for (int i = 0; i < 60; ++i) {
        const double middle = 0.5 * (low + high);
        (total(middle) < top_k ? low : high) = middle;
    }
    return hits;
}

/// Experts by rank of popularity, shuffled; of each `experts` / `local` ranks one, which keeps the sum of theirs
/// closest to their share, goes to the first `local` experts.
std::vector<std::int32_t> dealt(const std::vector<double>& hits, int local, Random& random) {
    const int experts = static_cast<int>(hits.size());
    std::vector<std::int32_t> ours;
    std::vector<std::int32_t> others;
    for (const std::int32_t expert : shuffled(experts, random)) (expert < local ? ours : others).push_back(expert);
    const double share = static_cast<double>(local) / experts;
    const std::size_t blocks = ours.size();
    std::vector<std::int32_t> by_rank;
    double owed = 0;  // hits that are due to the local experts and not given yet
    for (std::size_t block = 0; block < blocks; ++block) {
        const std::size_t begin = block * hits.size() / blocks;
        const std::size_t end = (block + 1) * hits.size() / blocks;
        for (std::size_t rank = begin; rank < end; ++rank) owed += share * hits[rank];
        std::size_t taken = begin;
        for (std::size_t rank = begin; rank < end; ++rank)
            if (std::abs(owed - hits[rank]) < std::abs(owed - hits[taken])) taken = rank;
        owed -= hits[taken];
        for (std::size_t rank = begin; rank < end; ++rank) {
            std::vector<std::int32_t>& from = rank == taken ? ours : others;
            by_rank.push_back(from.back());
            from.pop_back();
        }
    }
    return by_rank;
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
                                        std::uint64_t seed, int local) {
    if (top_k > experts) invalid("bench: {} different experts out of {}", top_k, experts);
    Random random(seed);
    const bool skewed_slice = routing == Routing::zipf && local > 0 && local < experts;
    std::vector<double> sums;
    if (routing == Routing::zipf) sums = popularity_sums(experts);
    std::vector<std::int32_t> order =
        skewed_slice ? dealt(expected_hits(sums, top_k), local, random) : shuffled(experts, random);
    const auto width = static_cast<std::size_t>(top_k);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens) * width);
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
        const std::span<std::int32_t> token(ids.data() + t * width, width);
        if (routing == Routing::uniform) {
            draw_uniform(order, token, random);
        } else if (routing == Routing::zipf) {
            draw_zipf(order, sums, token, random);
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

std::int64_t count_routes(std::span<const std::int32_t> ids, int experts) {
    return std::count_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id < experts; });
}

}  // namespace tokamak::cli::bench
