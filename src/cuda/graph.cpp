// SPDX-License-Identifier: Apache-2.0
#include "cuda/graph.h"

#include <algorithm>

#include "cuda/check.h"

namespace tokamak::cuda {
namespace {

/// Two events; destroyed with the scope.
struct EventPair {
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    EventPair() {
        check(cudaEventCreate(&begin), "cudaEventCreate");
        check(cudaEventCreate(&end), "cudaEventCreate");
    }
    ~EventPair() {
        (void)cudaEventDestroy(begin);
        (void)cudaEventDestroy(end);
    }
    EventPair(const EventPair&) = delete;
    EventPair& operator=(const EventPair&) = delete;
};

float time_between(const EventPair& events, cudaStream_t stream, const std::function<void()>& work) {
    check(cudaEventRecord(events.begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(events.end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(events.end), "cudaEventSynchronize");
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, events.begin, events.end), "cudaEventElapsedTime");
    return milliseconds * 1000.0F;
}

}  // namespace

OwnedStream::OwnedStream() { check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreate"); }
OwnedStream::~OwnedStream() { (void)cudaStreamDestroy(handle_); }

CapturedGraph::CapturedGraph(const OwnedStream& stream, const std::function<void()>& record)
    : stream_(stream.handle()) {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
        record();
    } catch (...) {
        (void)cudaStreamEndCapture(stream_, &graph);
        if (graph != nullptr) (void)cudaGraphDestroy(graph);
        throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, &nodes_);
    const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(counted, "cudaGraphGetNodes");
    check(made, "cudaGraphInstantiate");
}

CapturedGraph::~CapturedGraph() { (void)cudaGraphExecDestroy(graph_); }

void CapturedGraph::replay() const { check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch"); }

float time_once(const OwnedStream& stream, const std::function<void()>& work) {
    const EventPair events;
    return time_between(events, stream.handle(), work);
}

Quantiles quantiles(std::vector<float> samples) {
    if (samples.empty()) return {};
    std::sort(samples.begin(), samples.end());
    const auto at = [&](double share) {
        return static_cast<double>(
            samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)]);
    };
    return {at(0.5), at(0.1), at(0.9)};
}

Quantiles time_graph(const OwnedStream& stream, const CapturedGraph& graph, int warmups, int samples) {
    const EventPair events;
    for (int i = 0; i < warmups; ++i) graph.replay();
    std::vector<float> times;
    for (int i = 0; i < samples; ++i) times.push_back(time_between(events, stream.handle(), [&] { graph.replay(); }));
    return quantiles(std::move(times));
}

}  // namespace tokamak::cuda
