// SPDX-License-Identifier: Apache-2.0
// Routing with a block per token: all warps score, then one warp takes the best of what is left top_k times. Up to 32
// choices and 32 groups; the rest is in route_sort.cu.
#include <algorithm>
#include <bit>

#include "moe/cuda/small/route.cuh"

namespace tokamak::moe::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kMostThreads = 512;
constexpr std::int64_t kResidentThreads = 132 * 1024;
constexpr int kSharedLimit = 50 * 1024;

bool fits_a_warp(const RouteParams& p) { return p.top_k <= 32 && p.groups <= 32; }

/// Lanes share the groups; the experts of all but the best groups are out.
__device__ __forceinline__ void keep_best_groups(const RouteParams& p, const Scores& s, int lane) {
    const int parts = 32 >> p.group_bits;  // lanes of a group
    const int group = lane / parts;
    const int size = p.experts / p.groups;
    TwoBest two;
    if (group < p.groups) {
#pragma unroll 4
        for (int e = lane % parts; e < size; e += parts) two.add(value_of_key(s.keys[group * size + e]));
    }
#pragma unroll 1
    for (int step = 1; step < parts; step *= 2) {
        const float best = __shfl_xor_sync(kAll, two.best, step);
        const float second = __shfl_xor_sync(kAll, two.second, step);
        two.add(best);
        two.add(second);
    }
    const bool leader = group < p.groups && lane % parts == 0;
    std::uint32_t key = leader ? key_of(two.worth()) : 0;
    unsigned kept = 0;  // a bit for each group's first lane
#pragma unroll 1
    for (int i = 0; i < p.top_groups; ++i) {
        const unsigned best = __reduce_max_sync(kAll, key);
        const unsigned winner = 1U << (__ffs(static_cast<int>(__ballot_sync(kAll, key == best))) - 1);
        kept |= winner;
        if ((winner >> lane & 1U) != 0) key = 0;
    }
    if (group < p.groups && (kept >> (group * parts) & 1U) == 0) {
#pragma unroll 4
        for (int e = lane % parts; e < size; e += parts) s.keys[group * size + e] = 0;
    }
    __syncwarp();
}

__device__ __forceinline__ void choose(const RouteParams& p, std::int64_t row, const Scores& s, int lane) {
    std::uint32_t best = 0;
    int best_id = 0;
    // The best of the lane's own experts, the lowest of equals.
    const auto scan = [&] {
        best = 0;
#pragma unroll 8
        for (int e = lane; e < p.experts; e += 32) {
            const std::uint32_t key = s.keys[e];
            if (key > best) best = key, best_id = e;
        }
    };
    scan();
    int my_id = 0;
#pragma unroll 1
    for (int slot = 0; slot < p.top_k; ++slot) {
        const std::uint32_t top = __reduce_max_sync(kAll, best);
        const auto candidate = best == top ? static_cast<unsigned>(best_id) : 0xFFFFU;
        const int winner = static_cast<int>(__reduce_min_sync(kAll, candidate));
        if (lane == slot) my_id = winner;
        if (lane == winner % 32) {
            s.keys[winner] = 0;
            scan();
        }
    }
    const bool chosen = lane < p.top_k;
    const float weight = chosen ? static_cast<float>(s.values[my_id]) : 0.0F;
    const double sum = warp_sum(static_cast<double>(weight));
    if (chosen) store_choice(p, row, lane, final_weight(p, weight, sum), my_id);
}

__global__ void __launch_bounds__(kMostThreads, 1) route_select(const __grid_constant__ RouteParams p) {
    extern __shared__ double shared[];
    const Scores scores(shared, p.experts, static_cast<int>(blockDim.x) / 32);
    const std::int64_t tokens = live_tokens(p.tokens, p.num_tokens);
#pragma unroll 1
    for (std::int64_t row = blockIdx.x; row < tokens; row += gridDim.x) {
        if (score_row(p, row, scores)) {
            store_nan_row(p, row);
        } else if (threadIdx.x < 32) {
            if (p.groups > 1) keep_best_groups(p, scores, static_cast<int>(threadIdx.x));
            choose(p, row, scores, static_cast<int>(threadIdx.x));
        }
        if (row + gridDim.x < tokens) __syncthreads();  // the next row overwrites the scores
    }
}

}  // namespace

cudaError_t prepare_route(const RouteParams& p) {
    if (!fits_a_warp(p)) return prepare_route_sort();
    return cudaFuncSetAttribute(route_select, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
}

cudaError_t launch_route(const RouteParams& params, int max_ctas, cudaStream_t stream) {
    if (!fits_a_warp(params)) return launch_route_sort(params, max_ctas, stream);
    RouteParams p = params;
    p.group_bits = std::bit_width(static_cast<unsigned>(p.groups - 1));
    // Two experts per thread while all rows fit the chip at once, else eight: less waiting at barriers per row.
    const int per_thread = p.tokens * p.experts / 2 <= kResidentThreads ? 2 : 8;
    const int threads = std::clamp((p.experts / per_thread + 31) / 32 * 32, 32, kMostThreads);
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    route_select<<<static_cast<unsigned>(std::min(p.tokens, limit)), static_cast<unsigned>(threads),
                   static_cast<std::size_t>(score_bytes(p.experts, threads / 32)), stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
