// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/cuda/route_rows.h"
#include "moe/cuda/row_scores.cuh"

namespace tokamak::moe::cuda {
namespace {

constexpr int kMostWarps = 8;
constexpr int kSharedLimit = 200 * 1024;

/// A warp for each token.
__global__ void __launch_bounds__(kMostWarps * 32) route_rows(const __grid_constant__ RouteRowsArgs args, int room) {
    extern __shared__ float scores[];
    asm volatile("griddepcontrol.launch_dependents;");
    const std::int64_t tokens = live_tokens(args.tokens, args.num_tokens);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll 1
    for (std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * warps + warp; token < tokens;
         token += static_cast<std::int64_t>(gridDim.x) * warps) {
        const Choice choice = choose_experts(args, token, args.experts, scores + warp * room);
        if (lane >= args.top_k) continue;
        args.ids[token * args.top_k + lane] = choice.expert;
        args.weights[token * args.top_k + lane] = choice.weight;
    }
}

}  // namespace

/// The shared memory is that of the kernels behind it: no SM has to change over in between.
cudaError_t load_route_rows(const void*& kernel) {
    kernel = reinterpret_cast<const void*>(&route_rows);
    const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
    if (status != cudaSuccess) return status;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

RouteRowsShape route_rows_shape(const RouteRowsArgs& args, int max_ctas) {
    constexpr std::int64_t few = 512;  // tokens that two warps of each SM route
    const int warps = args.tokens <= few ? 2 : kMostWarps;
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    RouteRowsShape shape;
    shape.room = score_room(args.experts);
    shape.ctas = static_cast<unsigned>(std::min((args.tokens + warps - 1) / warps, limit));
    shape.threads = static_cast<unsigned>(warps) * 32;
    shape.shared_bytes = static_cast<unsigned>(warps * shape.room) * 4;
    return shape;
}

}  // namespace tokamak::moe::cuda
