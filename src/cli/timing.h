// SPDX-License-Identifier: Apache-2.0
// Medians and percentiles of repeated calls.
#pragma once

#include <functional>
#include <vector>

namespace tokamak::cli {

/// Microseconds of one call.
struct Timing {
    double median = 0;
    double p10 = 0;
    double p90 = 0;
    int samples = 0;
};

/// Percentiles by linear interpolation between neighbours. No samples give zeros.
Timing summarize(std::vector<double> microseconds);

/// How long to measure: at least `min_samples` calls, then until `seconds` have passed or `max_samples` are reached.
struct MeasureLimits {
    int min_samples = 3;
    int max_samples = 1000;
    double seconds = 0.5;
};

/// Times calls on the host clock; each must have finished its work when it returns.
Timing measure_calls(const std::function<void()>& call, const MeasureLimits& limits);

}  // namespace tokamak::cli
