// SPDX-License-Identifier: Apache-2.0
// Work that is recorded once and timed at will: a graph on CUDA, plain calls on the CPU.
#pragma once

#include <functional>
#include <memory>

#include "tokamak/tune.h"

namespace tokamak::tune {

class Replay {
  public:
    virtual ~Replay() = default;
    /// Does the work and waits for it.
    virtual void run() = 0;
    /// The same behind an L2 that holds other data; microseconds of the work alone.
    virtual double time() = 0;
};

/// Records work for one device, in a stream of its own.
class Recorder {
  public:
    virtual ~Recorder() = default;
    /// `work` launches into the stream it is given; it is called at once, on the CPU at every replay.
    virtual std::unique_ptr<Replay> record(std::function<void(Stream)> work) = 0;
    /// For what goes before a replay.
    [[nodiscard]] virtual Stream stream() const noexcept = 0;
};

/// Throws `unsupported` for a device that is not there. A CPU's replays are timed by `clock`, which outlives them.
std::unique_ptr<Recorder> make_recorder(Device device, Clock& clock);

/// Whether the stream is being captured; never on the CPU.
bool is_captured(Device device, Stream stream);

namespace cuda {
std::unique_ptr<Recorder> make_recorder(Device device);
bool is_captured(Device device, Stream stream);
}  // namespace cuda

}  // namespace tokamak::tune
