// SPDX-License-Identifier: Apache-2.0
#include "cli/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace tokamak::cli {
namespace {

using Clock = std::chrono::steady_clock;

double percentile(const std::vector<double>& ascending, double share) {
    const double position = share * static_cast<double>(ascending.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, ascending.size() - 1);
    return std::lerp(ascending[below], ascending[above], position - static_cast<double>(below));
}

}  // namespace

Timing summarize(std::vector<double> microseconds) {
    if (microseconds.empty()) return {};
    std::sort(microseconds.begin(), microseconds.end());
    return {percentile(microseconds, 0.5), percentile(microseconds, 0.1), percentile(microseconds, 0.9),
            static_cast<int>(microseconds.size())};
}

Timing measure_calls(const std::function<void()>& call, const MeasureLimits& limits) {
    std::vector<double> samples;
    const auto begin = Clock::now();
    for (int i = 0; i < limits.max_samples; ++i) {
        const auto start = Clock::now();
        if (i >= limits.min_samples && std::chrono::duration<double>(start - begin).count() >= limits.seconds) break;
        call();
        samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    return summarize(std::move(samples));
}

}  // namespace tokamak::cli
