// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <utility>

#include "cuda/check.h"
#include "cuda/graph.h"
#include "tokamak/tensor.h"
#include "tune/replay.h"

namespace tokamak::tune::cuda {
namespace {

using tokamak::cuda::CapturedGraph;
using tokamak::cuda::check;
using tokamak::cuda::DeviceGuard;
using tokamak::cuda::OwnedStream;

/// What every replay of a device shares.
struct Lane {
    /// The device is current.
    explicit Lane(Device on)
        : device(on),
          scrub(OwnedTensor::allocate(DType::u8, {2 * static_cast<std::int64_t>(device_info(on).l2_bytes)}, on)) {
        check(cudaEventCreate(&begin), "cudaEventCreate");
        check(cudaEventCreate(&end), "cudaEventCreate");
    }
    ~Lane() {
        (void)cudaEventDestroy(begin);
        (void)cudaEventDestroy(end);
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    Device device;
    OwnedStream stream;
    OwnedTensor scrub;  ///< filled before a replay: the L2 then holds nothing else, and the host enqueues the graph
                        ///< while the device fills, so that launching is not in the time
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
};

class GraphReplay : public Replay {
  public:
    GraphReplay(std::shared_ptr<const Lane> lane, const std::function<void(Stream)>& work)
        : lane_(std::move(lane)), graph_(lane_->stream, [&] { work(lane_->stream.stream()); }) {}

    void run() override {
        const DeviceGuard guard(lane_->device.index);
        graph_.replay();
        synchronize(lane_->device, lane_->stream.stream());
    }

    double time() override {
        const DeviceGuard guard(lane_->device.index);
        const Tensor& scrub = lane_->scrub;
        fill_bytes(scrub.data, lane_->device, 0, scrub.bytes(), lane_->stream.stream());
        check(cudaEventRecord(lane_->begin, lane_->stream.handle()), "cudaEventRecord");
        graph_.replay();
        check(cudaEventRecord(lane_->end, lane_->stream.handle()), "cudaEventRecord");
        check(cudaEventSynchronize(lane_->end), "cudaEventSynchronize");
        float milliseconds = 0.0F;
        check(cudaEventElapsedTime(&milliseconds, lane_->begin, lane_->end), "cudaEventElapsedTime");
        return milliseconds * 1000.0;
    }

  private:
    std::shared_ptr<const Lane> lane_;
    CapturedGraph graph_;
};

class GraphRecorder : public Recorder {
  public:
    explicit GraphRecorder(Device device) : lane_(std::make_shared<const Lane>(device)) {}
    std::unique_ptr<Replay> record(std::function<void(Stream)> work) override {
        const DeviceGuard guard(lane_->device.index);
        return std::make_unique<GraphReplay>(lane_, work);
    }
    [[nodiscard]] Stream stream() const noexcept override { return lane_->stream.stream(); }

  private:
    std::shared_ptr<const Lane> lane_;
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(Device device) {
    static_cast<void>(device_info(device));  // throws if there is none
    const DeviceGuard guard(device.index);
    return std::make_unique<GraphRecorder>(device);
}

bool is_captured(Device device, Stream stream) {
    const DeviceGuard guard(device.index);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream.handle, &status);
    if (error == cudaErrorStreamCaptureImplicit) {  // asked about the default stream while another captures
        (void)cudaGetLastError();
        return true;
    }
    check(error, "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
}

}  // namespace tokamak::tune::cuda
