// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/backend.h"
#include "cuda/ceilings/parts.h"
#include "cuda/check.h"

namespace tokamak::ceilings {
namespace {

using cuda::check;

constexpr int kNodes = 400;
constexpr int kThreads = 256;
constexpr int kBarriers = 1000;

__global__ void empty_kernel() {}

__global__ void empty_dependent_kernel() {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// All CTAs meet `rounds` times on one counter that the launch before this one cleared.
__global__ void grid_barriers(std::uint32_t* counter, int rounds) {
    for (int round = 1; round <= rounds; ++round) {
        __syncthreads();
        if (threadIdx.x == 0) {
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
            const std::uint32_t target = static_cast<std::uint32_t>(round) * gridDim.x;
            std::uint32_t seen = 0;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
            } while (seen < target);
        }
        __syncthreads();
    }
}

struct Kind {
    bool cooperative = false;
    bool dependent = false;
    int shared_bytes = 0;
};

/// Microseconds of one node in a chain of empty kernels, one CTA for each SM.
double time_chain(const Context& context, const Kind& kind) {
    const auto kernel = kind.dependent ? empty_dependent_kernel : empty_kernel;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 * 1024),
          "cudaFuncSetAttribute");
    cudaLaunchAttribute attribute{};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(context.sms));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<std::size_t>(kind.shared_bytes);
    config.stream = context.stream.handle();
    config.attrs = &attribute;
    config.numAttrs = kind.cooperative || kind.dependent ? 1 : 0;
    if (kind.cooperative) {
        attribute.id = cudaLaunchAttributeCooperative;
        attribute.val.cooperative = 1;
    } else if (kind.dependent) {
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    const cuda::CapturedGraph graph(context.stream, [&] {
        for (int node = 0; node < kNodes; ++node) check(cudaLaunchKernelEx(&config, kernel), "cudaLaunchKernelEx");
    });
    return cuda::time_graph(context.stream, graph, 3, 11).median / kNodes;
}

double time_grid_barrier(const Context& context) {
    const auto memory = backend::allocate(context.device, 256);
    auto* counter = static_cast<std::uint32_t*>(memory.get());
    int rounds = kBarriers;
    void* arguments[] = {&counter, &rounds};
    std::vector<float> samples;
    for (int i = 0; i < 8; ++i) {
        check(cudaMemsetAsync(counter, 0, 256, context.stream.handle()), "cudaMemsetAsync");
        samples.push_back(cuda::time_once(context.stream, [&] {
            check(cudaLaunchCooperativeKernel(grid_barriers, dim3(static_cast<unsigned>(context.sms)), dim3(kThreads),
                                              arguments, 0, context.stream.handle()),
                  "cudaLaunchCooperativeKernel");
        }));
    }
    samples.erase(samples.begin());
    return cuda::quantiles(samples).median / kBarriers;
}

}  // namespace

void measure_launches(const Context& context, Ceilings& result) {
    constexpr int large = 200 * 1024;
    result.graph_node_us = time_chain(context, {});
    result.graph_node_pdl_us = time_chain(context, {.dependent = true});
    result.graph_node_200kb_us = time_chain(context, {.shared_bytes = large});
    result.cooperative_node_us = time_chain(context, {.cooperative = true});
    result.cooperative_node_200kb_us = time_chain(context, {.cooperative = true, .shared_bytes = large});
    result.grid_barrier_us = time_grid_barrier(context);
}

}  // namespace tokamak::ceilings
