// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/clocks.h"

#include <algorithm>
#include <vector>

#include "cli/bench/decode/kernels.h"

namespace tokamak::cli::bench {

double mean_mhz(std::span<const ClockStamp> begin, std::span<const ClockStamp> end) {
    std::vector<double> clocks;
    for (const ClockStamp& first : begin) {
        const auto last = std::find_if(end.begin(), end.end(), [&](const ClockStamp& stamp) {
            return stamp.multiprocessor == first.multiprocessor && stamp.nanoseconds > first.nanoseconds;
        });
        if (last != end.end())
            clocks.push_back(1e3 * static_cast<double>(last->cycles - first.cycles) /
                             static_cast<double>(last->nanoseconds - first.nanoseconds));
    }
    if (clocks.empty()) return 0;
    std::sort(clocks.begin(), clocks.end());
    return clocks[clocks.size() / 2];
}

ClockMeter::ClockMeter(Device device)
    : stamps_(OwnedTensor::allocate(DType::u8, {2 * kClockStamps * static_cast<std::int64_t>(sizeof(ClockStamp))},
                                    device)) {}

void ClockMeter::begin(Stream stream) const { stamp_clocks(stamps_.as<ClockStamp>(), stream); }

void ClockMeter::end(Stream stream) const { stamp_clocks(stamps_.as<ClockStamp>() + kClockStamps, stream); }

double ClockMeter::mhz() const {
    const OwnedTensor host = OwnedTensor::copy_of(stamps_);
    const std::span all(host.as<ClockStamp>(), 2 * kClockStamps);
    return mean_mhz(all.first(kClockStamps), all.last(kClockStamps));
}

}  // namespace tokamak::cli::bench
