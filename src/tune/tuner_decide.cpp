// SPDX-License-Identifier: Apache-2.0
// From measurements to rows.
#include <utility>

#include "core/build_info.h"
#include "core/throw.h"
#include "tune/tuner.h"

namespace tokamak::tune {
namespace {

constexpr double kFinest = 0.1;  ///< counts that are closer, as a share, have nothing between them that matters

}  // namespace

Row Tuner::row_of(const Measured& bucket, const Selection& selection) const {
    const auto median = [&](std::size_t i) { return median_interval(bucket.samples[i].us).median; };
    Row row{.tokens = bucket.tokens,
            .variant = names_[selection.winner],
            .fallback = names_[bucket.fallback],
            .us = median(selection.winner)};
    if (bucket.samples[bucket.fallback].usable) row.fallback_us = median(bucket.fallback);
    if (selection.runner_up) {
        row.runner_up = names_[*selection.runner_up];
        row.runner_up_us = median(*selection.runner_up);
    }
    for (std::size_t i = 0; i < names_.size(); ++i) {
        const Samples& samples = bucket.samples[i];
        Timed timed{.variant = names_[i], .rounds = static_cast<int>(samples.us.size()), .error = bucket.errors[i]};
        if (!samples.us.empty()) {
            const Interval interval = median_interval(samples.us);
            timed.us = interval.median;
            timed.low = interval.low;
            timed.high = interval.high;
        }
        row.timed.push_back(std::move(timed));
    }
    return row;
}

std::optional<Selection> Tuner::selection_of(const Measured& bucket) const {
    if (!bucket.skipped.empty()) return std::nullopt;
    return select(bucket.samples, bucket.fallback, options_.min_gain);
}

/// Whether the count in the middle below bucket `upper` got a row: what the larger count takes is too slow there.
bool Tuner::look_between(std::size_t upper) {
    const std::int64_t low = buckets_[upper - 1].tokens;
    const std::int64_t high = buckets_[upper].tokens;
    const std::int64_t middle = low + (high - low) / 2;
    const auto above = selection_of(buckets_[upper]);
    if (middle == low || !above || static_cast<double>(high - low) < kFinest * static_cast<double>(low)) return false;
    left_ = buckets_.size() - upper;
    Measured between = measure_bucket(middle);
    const auto selection = selection_of(between);
    if (!selection) return false;
    const auto us = [&](std::size_t i) { return median_interval(between.samples[i].us).median; };
    const Samples& taken = between.samples[above->winner];
    const bool known = taken.usable && !taken.us.empty();
    if (known && us(above->winner) <= us(selection->winner) * (1.0 + options_.between)) return false;
    buckets_.insert(buckets_.begin() + static_cast<std::ptrdiff_t>(upper), std::move(between));
    return true;
}

/// Halves the distance of two counts until the winner of the larger is good enough in the middle.
void Tuner::look_between() {
    for (std::size_t upper = 1; upper < buckets_.size();)
        if (!look_between(upper)) ++upper;
}

/// Only now, since a candidate that failed at one token count is in no row of another.
Tuning Tuner::decide() {
    Tuning tuning{.device = request_.device, .problem = request_.problem, .build = build_info::cuda_sources_hash()};
    for (Measured& bucket : buckets_) {
        for (const auto& [candidate, failure] : failed_) {
            bucket.samples[candidate].usable = false;
            if (bucket.errors[candidate].empty())
                bucket.errors[candidate] = fmt::format("{} (at {} tokens)", failure.reason, failure.tokens);
        }
        const auto selection = selection_of(bucket);
        if (selection)
            tuning.rows.push_back(row_of(bucket, *selection));
        else
            tuning.skipped.push_back(
                {bucket.tokens, {}, bucket.skipped.empty() ? "every candidate failed" : bucket.skipped});
    }
    for (const auto& [candidate, failure] : failed_) tuning.failed.push_back(failure);
    for (const Candidate& candidate : request_.candidates)
        if (!candidate.refusal.empty()) tuning.refused.push_back(candidate);
    return tuning;
}

}  // namespace tokamak::tune
