// SPDX-License-Identifier: Apache-2.0
#include "tune/replay.h"

#include <utility>

namespace tokamak::tune {
namespace {

class CpuReplay : public Replay {
  public:
    CpuReplay(std::function<void(Stream)> work, Clock& clock) : work_(std::move(work)), clock_(clock) {}
    void run() override { work_({}); }
    double time() override {
        const double begin = clock_.seconds();
        work_({});
        return (clock_.seconds() - begin) * 1e6;
    }

  private:
    std::function<void(Stream)> work_;
    Clock& clock_;
};

class CpuRecorder : public Recorder {
  public:
    explicit CpuRecorder(Clock& clock) : clock_(clock) {}
    std::unique_ptr<Replay> record(std::function<void(Stream)> work) override {
        return std::make_unique<CpuReplay>(std::move(work), clock_);
    }
    [[nodiscard]] Stream stream() const noexcept override { return {}; }

  private:
    Clock& clock_;
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(Device device, Clock& clock) {
    if (device.is_cuda()) return cuda::make_recorder(device);
    return std::make_unique<CpuRecorder>(clock);
}

bool is_captured(Device device, Stream stream) { return device.is_cuda() && cuda::is_captured(device, stream); }

}  // namespace tokamak::tune
