// SPDX-License-Identifier: Apache-2.0
// Streams, events and captured graphs for tests and measurements; no operator uses them.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "tokamak/device.h"

namespace tokamak::cuda {

/// A non-blocking stream of its own on the current device.
class OwnedStream {
  public:
    OwnedStream();
    ~OwnedStream();
    OwnedStream(const OwnedStream&) = delete;
    OwnedStream& operator=(const OwnedStream&) = delete;
    [[nodiscard]] Stream stream() const noexcept { return {handle_}; }
    [[nodiscard]] cudaStream_t handle() const noexcept { return handle_; }

  private:
    cudaStream_t handle_ = nullptr;
};

/// What `record` launches into the stream, captured once and replayed at will. An exception out of `record` ends the
/// capture and passes on.
class CapturedGraph {
  public:
    CapturedGraph(const OwnedStream& stream, const std::function<void()>& record);
    ~CapturedGraph();
    CapturedGraph(const CapturedGraph&) = delete;
    CapturedGraph& operator=(const CapturedGraph&) = delete;
    void replay() const;
    [[nodiscard]] std::size_t nodes() const noexcept { return nodes_; }

  private:
    cudaStream_t stream_ = nullptr;
    cudaGraphExec_t graph_ = nullptr;
    std::size_t nodes_ = 0;
};

/// Microseconds between two events around `work`, which launches into `stream`. Synchronises.
float time_once(const OwnedStream& stream, const std::function<void()>& work);

struct Quantiles {
    double median = 0.0;
    double p10 = 0.0;
    double p90 = 0.0;
};
Quantiles quantiles(std::vector<float> samples);

/// Replays a graph `warmups` times, then `samples` times between events; microseconds of one replay.
Quantiles time_graph(const OwnedStream& stream, const CapturedGraph& graph, int warmups, int samples);

}  // namespace tokamak::cuda
