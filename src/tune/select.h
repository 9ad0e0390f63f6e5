// SPDX-License-Identifier: Apache-2.0
// Which of several timed candidates wins. Pure functions of the samples: rounds are interleaved, so sample i of every
// candidate was taken at about the same time, and ratios of the same round cancel the drift of clocks.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace tokamak::tune {

/// Samples of one candidate, one a round, from the first round on; a dropped candidate has fewer.
struct Samples {
    std::vector<double> us;
    bool usable = true;  ///< false: it failed and can neither win nor be compared with
};

/// A median and its 95 % confidence interval from order statistics; no assumption about the distribution. Fewer than
/// six samples allow no such interval: then it is their whole range.
struct Interval {
    double low = 0;
    double median = 0;
    double high = 0;
};

/// Of at least one finite value.
Interval median_interval(std::vector<double> values);
/// Of a[i] / b[i] over the rounds that both have (at least one).
Interval ratio_interval(std::span<const double> a, std::span<const double> b);

/// Indices into the candidates.
struct Selection {
    std::size_t winner = 0;
    std::optional<std::size_t> runner_up;  ///< least median of the others
};

/// The fastest candidate whose win over `fallback` exceeds `min_gain` with its whole confidence interval; else
/// `fallback`. Of equal medians the first counts as faster, the fallback before all. Without a usable fallback the
/// least median wins. None if no candidate is usable. Every usable candidate has at least one sample.
std::optional<Selection> select(std::span<const Samples> candidates, std::size_t fallback, double min_gain);

/// Whether more rounds are not worth their time: one candidate beats the fallback by `min_gain` and no other is faster
/// than that one by `min_gain`, or no candidate beats the fallback by `min_gain`; each with the whole interval.
bool settled(std::span<const Samples> candidates, std::size_t fallback, double min_gain);

/// Candidates, other than the fallback, that are slower than the fastest by more than `share` with the whole interval.
std::vector<std::size_t> clearly_slower(std::span<const Samples> candidates, std::size_t fallback, double share);

}  // namespace tokamak::tune
