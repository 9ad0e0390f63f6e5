// SPDX-License-Identifier: Apache-2.0
// The clock of the multiprocessors while something ran: the power limit lowers it, and times with it.
#pragma once

#include <cstdint>
#include <span>

#include "tokamak/tensor.h"

namespace tokamak::cli::bench {

/// What one multiprocessor read.
struct ClockStamp {
    std::uint64_t multiprocessor = 0;
    std::uint64_t cycles = 0;
    std::uint64_t nanoseconds = 0;
};

/// Mean MHz between two sets of stamps, the median over multiprocessors that are in both; 0 if none is.
double mean_mhz(std::span<const ClockStamp> begin, std::span<const ClockStamp> end);

/// Stamps before and after what a stream runs. A stamp takes a few microseconds of the stream.
class ClockMeter {
  public:
    explicit ClockMeter(Device device);
    void begin(Stream stream) const;
    void end(Stream stream) const;
    /// Mean MHz from `begin` to `end`, after both have run.
    [[nodiscard]] double mhz() const;

  private:
    OwnedTensor stamps_;  ///< on the device, of the begin and of the end
};

}  // namespace tokamak::cli::bench
