// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/rotation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

constexpr double kReplayUs = 400;   ///< a replay should take: the microsecond that starts it is then a quarter percent
constexpr double kFewestCalls = 8;  ///< the mean of active experts is then good to about 1.5 percent
constexpr double kLongReplayUs = 3000;  ///< and not longer, where the L2 is cold all the same
constexpr double kMeasureUs = 4000;     ///< spent on the timed replays
constexpr int kFewestReplays = 5;
constexpr int kMostReplays = 25;

}  // namespace

int calls_per_replay(double bytes, double ideal_us, std::size_t l2_bytes, int most_calls) {
    const double cold = kColdFactor * static_cast<double>(l2_bytes) / std::max(bytes, 1.0) + 1.0;
    const double few = std::clamp(std::floor(kLongReplayUs / std::max(ideal_us, 0.1)), 1.0, kFewestCalls);
    const double wanted = std::max({std::ceil(cold), std::ceil(kReplayUs / std::max(ideal_us, 0.1)), few});
    return static_cast<int>(std::min(wanted, static_cast<double>(most_calls)));
}

int replays_for(double replay_us) {
    return std::clamp(static_cast<int>(kMeasureUs / std::max(replay_us, 1.0)), kFewestReplays, kMostReplays);
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
