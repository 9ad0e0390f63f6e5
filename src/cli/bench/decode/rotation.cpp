// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/rotation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

constexpr double kReplayUs = 400;     ///< a replay should take: the microsecond that starts it is then a quarter percent
constexpr double kMeasureUs = 12000;  ///< spent on the timed replays
constexpr int kFewestReplays = 7;
constexpr int kMostReplays = 25;

}  // namespace

Rotation rotation_for(double bytes, double ideal_us, std::size_t l2_bytes, int most_calls) {
    const double cold = kColdFactor * static_cast<double>(l2_bytes) / std::max(bytes, 1.0) + 1.0;
    const double wanted = std::max(std::ceil(cold), std::ceil(kReplayUs / std::max(ideal_us, 0.1)));
    Rotation rotation;
    rotation.calls = static_cast<int>(std::clamp(wanted, 2.0, static_cast<double>(std::max(2, most_calls))));
    const double replay_us = rotation.calls * std::max(ideal_us, 1.0);
    rotation.replays = std::clamp(static_cast<int>(kMeasureUs / replay_us), kFewestReplays, kMostReplays);
    return rotation;
}

FloorCurve::FloorCurve(std::vector<Point> points, double read_gbps)
    : points_(std::move(points)), read_gbps_(read_gbps) {
    if (points_.empty() || read_gbps_ <= 0) invalid("bench: no read floor was measured");
}

double FloorCurve::us(double bytes) const {
    const auto above = std::find_if(points_.begin(), points_.end(),
                                    [&](const Point& point) { return static_cast<double>(point.bytes) >= bytes; });
    if (above == points_.begin()) return points_.front().us;
    const Point& low = above[-1];
    const double past = bytes - static_cast<double>(low.bytes);
    if (above == points_.end()) return low.us + past / read_gbps_ * 1e-3;
    return std::lerp(low.us, above->us, past / static_cast<double>(above->bytes - low.bytes));
}

}  // namespace tokamak::cli::bench
