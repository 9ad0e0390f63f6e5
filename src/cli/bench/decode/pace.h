// SPDX-License-Identifier: Apache-2.0
// When a GPU has rested enough for the next stretch of measurements. At its power limit a GPU runs the first 40 ms of
// work at one clock and what follows up to a sixth slower, until it has rested; a quarter of the time busy keeps it
// rested.
#pragma once

namespace tokamak::cli::bench {

inline constexpr double kRestFactor = 3;    ///< rest over the work before it
inline constexpr double kMostRestMs = 150;  ///< after which it has rested, whatever was before
inline constexpr double kStretchMs = 12;    ///< of measurements without a rest: a replay more at most
inline constexpr double kWarmMs = 0.8;      ///< of a stretch that does not count, where replays are shorter

/// Owed rest. Times in milliseconds from any origin.
class Pace {
  public:
    /// The device was busy for `busy` until `now`.
    void worked(double now, double busy);
    /// Rest that is still owed.
    [[nodiscard]] double due(double now) const;

  private:
    double owed_ = kMostRestMs;  ///< at `since_`
    double since_ = 0;
};

}  // namespace tokamak::cli::bench
