// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/cuda/expert_rows.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kRowsOfBlock = kThreads * 8;

/// blockIdx.y: the expert.
__global__ void __launch_bounds__(kThreads) name_experts(const __grid_constant__ ExpertRowsArgs args) {
    for (auto expert = static_cast<int>(blockIdx.y); expert < args.experts; expert += static_cast<int>(gridDim.y)) {
        const std::int64_t live = args.expert_rows[expert];
        std::int32_t* const ids = args.ids + expert * args.rows;
        for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; row < args.rows;
             row += static_cast<std::int64_t>(gridDim.x) * kThreads)
            ids[row] = row < live ? expert : -1;
    }
}

}  // namespace

cudaError_t prepare_name_experts() {
    cudaFuncAttributes unused{};
    return cudaFuncGetAttributes(&unused, name_experts);
}

cudaError_t launch_name_experts(const ExpertRowsArgs& args, int max_ctas, cudaStream_t stream) {
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 1024;
    const std::int64_t experts = std::min<std::int64_t>(args.experts, limit);
    const std::int64_t blocks = std::clamp<std::int64_t>((args.rows + kRowsOfBlock - 1) / kRowsOfBlock, 1,
                                                         std::max<std::int64_t>(limit / experts, 1));
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(experts));
    name_experts<<<grid, kThreads, 0, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
