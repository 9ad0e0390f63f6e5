// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/cuda/route_rows.h"
#include "moe/cuda/row_scores.cuh"

namespace tokamak::moe::cuda {
namespace {

constexpr int kMostWarps = 8;
constexpr int kSharedLimit = 200 * 1024;

__device__ __forceinline__ void store(const RouteRowsArgs& args, std::int64_t token, const Choice& choice) {
    if (choice.slot < 0) return;
    args.ids[token * args.top_k + choice.slot] = choice.expert;
    args.weights[token * args.top_k + choice.slot] = choice.weight;
}

/// A token in registers by each warp. The kernel behind starts meanwhile, but on an SM only where both fit: the
/// gathered one with 12 warps leaves 1024 registers (dsv3-tp8, 64 tokens: CTAs of two warps of 48 registers cost 3 us
/// more).
__global__ void __maxnreg__(32) route_row(const __grid_constant__ RouteRowsArgs args) {
    extern __shared__ __align__(16) float rooms[];
    asm volatile("griddepcontrol.launch_dependents;");
    const int warp = static_cast<int>(threadIdx.x) / 32;
    float* const scores = rooms + warp * kLaneRoom;
    const int token = static_cast<int>(blockIdx.x * (blockDim.x / 32)) + warp;
    LaneScores logits;
    // Without a branch on the warp, behind which every shuffle takes two instructions more.
    logits.load(args.route, args.experts, min(token, static_cast<int>(args.tokens) - 1), scores);
    const Choice choice = logits.choose(args.route, args.top_k, scores);
    if (token < live_tokens(args.tokens, args.num_tokens)) store(args, token, choice);
}

/// A warp for each token.
__global__ void __launch_bounds__(kMostWarps * 32) route_rows(const __grid_constant__ RouteRowsArgs args) {
    extern __shared__ float scores[];
    asm volatile("griddepcontrol.launch_dependents;");
    const std::int64_t tokens = live_tokens(args.tokens, args.num_tokens);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll 1
    for (std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * warps + warp; token < tokens;
         token += static_cast<std::int64_t>(gridDim.x) * warps)
        store(args, token, choose_experts(args, token, args.experts, scores + warp * args.room));
}

}  // namespace

/// The shared memory is that of the kernels behind it: no SM has to change over in between.
cudaError_t load_route_rows(RouteKernels& kernels) {
    kernels = {reinterpret_cast<const void*>(&route_row), reinterpret_cast<const void*>(&route_rows)};
    const cudaError_t status =
        cudaFuncSetAttribute(kernels.in_memory, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
    if (status != cudaSuccess) return status;
    for (const void* kernel : {kernels.in_registers, kernels.in_memory}) {
        const cudaError_t carved = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                                        cudaSharedmemCarveoutMaxShared);
        if (carved != cudaSuccess) return carved;
    }
    return cudaSuccess;
}

RouteRowsShape route_rows_shape(const RouteRowsArgs& args, int max_ctas, int row_warps) {
    constexpr std::int64_t few = 512;  // tokens that one or two warps of each CTA route
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    if (args.route.in_registers && args.tokens <= std::min(few, limit))
        return {.in_registers = true,
                .ctas = static_cast<unsigned>((args.tokens + row_warps - 1) / row_warps),
                .threads = static_cast<unsigned>(row_warps) * 32,
                .shared_bytes = static_cast<unsigned>(row_warps * kLaneRoom) * 4};
    const int warps = args.tokens <= few ? 2 : kMostWarps;
    return {.ctas = static_cast<unsigned>(std::min((args.tokens + warps - 1) / warps, limit)),
            .threads = static_cast<unsigned>(warps) * 32,
            .shared_bytes = static_cast<unsigned>(warps * args.room) * 4};
}

}  // namespace tokamak::moe::cuda
