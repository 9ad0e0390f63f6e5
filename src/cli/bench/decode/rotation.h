// SPDX-License-Identifier: Apache-2.0
// How benchmarks keep the L2 cold, and what reading costs at least.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tokamak::cli::bench {

/// Different data that a replay has to touch, as a multiple of the L2.
inline constexpr double kColdFactor = 3.0;

/// Calls of a replay, each with data of its own, for calls that read `bytes` and take `ideal_us` at least: so many that
/// what a replay reads is more than three times the L2, that the start of a replay does not count and that random ids
/// are as many as they are on average; at most `most_calls`.
int calls_per_replay(double bytes, double ideal_us, std::size_t l2_bytes, int most_calls);

/// How often a replay that takes so long is timed.
int replays_for(double replay_us);

/// Times of a plain streaming kernel by size, cold L2.
class FloorCurve {
  public:
    struct Point {
        std::size_t bytes = 0;
        double us = 0;
        std::string kernel;
    };

    FloorCurve() = default;
    /// Points ascending in bytes, at least one.
    FloorCurve(std::vector<Point> points, double read_gbps);

    /// Between two points linear in the bytes; below the first its time; above the last at the read ceiling.
    [[nodiscard]] double us(double bytes) const;
    [[nodiscard]] const std::vector<Point>& points() const noexcept { return points_; }

  private:
    std::vector<Point> points_;
    double read_gbps_ = 0;
};

}  // namespace tokamak::cli::bench
