// SPDX-License-Identifier: Apache-2.0
#include "tune/select.h"

#include <algorithm>

namespace tokamak::tune {
namespace {

/// Samples to leave out at each end of n sorted ones for a 95 % interval: the largest k with 2 P(Binomial(n, 1/2) < k)
/// at most 5 %.
std::size_t left_out(std::size_t n) {
    double term = 1;  // C(n, i) / 2^n, from i = 0; n is at most a few hundred
    for (std::size_t i = 0; i < n; ++i) term *= 0.5;
    double below = 0;
    std::size_t k = 0;
    while (2 * (below + term) <= 0.05 && 2 * (k + 1) < n) {
        below += term;
        term *= static_cast<double>(n - k) / static_cast<double>(k + 1);
        ++k;
    }
    return k == 0 ? 0 : k - 1;
}

double median(const std::vector<double>& sorted) {
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

/// Usable candidates, fastest first; of equal ones the fallback, then the first of the list.
std::vector<std::size_t> ranking(std::span<const Samples> candidates, std::size_t fallback) {
    std::vector<std::size_t> order;
    std::vector<double> medians(candidates.size());
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (!candidates[i].usable) continue;
        medians[i] = median_interval(candidates[i].us).median;
        order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        if (medians[a] != medians[b]) return medians[a] < medians[b];
        return a == fallback && b != fallback;
    });
    return order;
}

bool beats(const Samples& candidate, const Samples& fallback, double min_gain) {
    return ratio_interval(candidate.us, fallback.us).high < 1.0 - min_gain;
}

}  // namespace

Interval median_interval(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t k = left_out(values.size());
    return {values[k], median(values), values[values.size() - 1 - k]};
}

Interval ratio_interval(std::span<const double> a, std::span<const double> b) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) ratios.push_back(a[i] / b[i]);
    return median_interval(std::move(ratios));
}

std::optional<Selection> select(std::span<const Samples> candidates, std::size_t fallback, double min_gain) {
    const std::vector<std::size_t> order = ranking(candidates, fallback);
    if (order.empty()) return std::nullopt;
    Selection selection{.winner = order.front(), .runner_up = std::nullopt};
    if (candidates[fallback].usable) {
        const auto winner = std::find_if(order.begin(), order.end(), [&](std::size_t i) {
            return i == fallback || beats(candidates[i], candidates[fallback], min_gain);
        });
        selection.winner = *winner;
    }
    for (const std::size_t i : order)
        if (i != selection.winner && !selection.runner_up) selection.runner_up = i;
    return selection;
}

bool settled(std::span<const Samples> candidates, std::size_t fallback, double min_gain) {
    const std::vector<std::size_t> order = ranking(candidates, fallback);
    if (order.size() < 2) return true;
    const bool has_fallback = candidates[fallback].usable;
    const auto slower = [&](std::size_t i, std::size_t than, double share) {
        return i == than || ratio_interval(candidates[i].us, candidates[than].us).low > share;
    };
    const auto all_slower = [&](std::size_t than, double share) {
        return std::all_of(order.begin(), order.end(), [&](std::size_t i) { return slower(i, than, share); });
    };
    if (has_fallback && all_slower(fallback, 1.0 - min_gain)) return true;
    const std::size_t first = order.front();
    return all_slower(first, 1.0 - min_gain) &&
           (!has_fallback || beats(candidates[first], candidates[fallback], min_gain));
}

std::vector<std::size_t> clearly_slower(std::span<const Samples> candidates, std::size_t fallback, double share) {
    std::vector<std::size_t> slow;
    const std::vector<std::size_t> order = ranking(candidates, fallback);
    for (const std::size_t i : order)
        if (i != fallback && i != order.front() &&
            ratio_interval(candidates[i].us, candidates[order.front()].us).low > 1.0 + share)
            slow.push_back(i);
    return slow;
}

}  // namespace tokamak::tune
