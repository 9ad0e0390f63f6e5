// SPDX-License-Identifier: Apache-2.0
#include "tune/replay.h"

#include <utility>

#include "tokamak/tune.h"

namespace tokamak::tune {
namespace {

class CpuReplay : public Replay {
  public:
    explicit CpuReplay(std::function<void(Stream)> work) : work_(std::move(work)) {}
    void run() override { work_({}); }
    double time() override {
        const double begin = steady_clock().seconds();
        work_({});
        return (steady_clock().seconds() - begin) * 1e6;
    }

  private:
    std::function<void(Stream)> work_;
};

class CpuRecorder : public Recorder {
  public:
    std::unique_ptr<Replay> record(std::function<void(Stream)> work) override {
        return std::make_unique<CpuReplay>(std::move(work));
    }
    [[nodiscard]] Stream stream() const noexcept override { return {}; }
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(Device device) {
    if (device.is_cuda()) return cuda::make_recorder(device);
    return std::make_unique<CpuRecorder>();
}

bool is_captured(Device device, Stream stream) { return device.is_cuda() && cuda::is_captured(device, stream); }

}  // namespace tokamak::tune
