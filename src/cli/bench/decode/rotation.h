// SPDX-License-Identifier: Apache-2.0
// How benchmarks keep the L2 cold, and what reading costs at least.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tokamak::cli::bench {

/// Different data that a replay has to touch, as a multiple of the L2.
inline constexpr double kColdFactor = 3.0;

struct Rotation {
    int calls = 1;    ///< of a replay, each with data of its own
    int replays = 1;  ///< timed ones
};

/// For calls that read `bytes` and take `ideal_us` at least: enough calls that what a replay reads is more than three
/// times the L2 and that the start of a replay does not count, few where calls are long, at most `most_calls`.
Rotation rotation_for(double bytes, double ideal_us, std::size_t l2_bytes, int most_calls);

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
