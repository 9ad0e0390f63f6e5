// SPDX-License-Identifier: Apache-2.0
// Routing with a warp per token: a lane holds the scores of experts lane, lane + 32, ... and the warp takes the best of
// what is left top_k times. Up to 1024 experts, 32 choices and 32 groups; the rest is in route_block.cu.
#include <algorithm>

#include "moe/cuda/small/route.cuh"

namespace tokamak::moe::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kWarps = 4;
constexpr int kMostExperts = 1024;

bool fits_a_warp(const RouteParams& p) { return p.experts <= kMostExperts && p.top_k <= 32 && p.groups <= 32; }

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(kAll, value, step));
    return value;
}

/// choice[i] is what expert i * 32 + lane is chosen by.
template <int kPerLane>
__device__ __forceinline__ void score(const RouteParams& p, std::int64_t row, int lane, float (&choice)[kPerLane]) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
        choice[i] = i * 32 + lane < p.experts ? load_logit(p, row, i * 32 + lane) : -INFINITY;
    if (!p.softmax) {
#pragma unroll
        for (int i = 0; i < kPerLane; ++i)
            if (i * 32 + lane < p.experts) choice[i] = sigmoid_choice(p, choice[i], i * 32 + lane);
        return;
    }
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) largest = fmaxf(largest, choice[i]);
    largest = warp_max(largest);
    double powers[kPerLane];
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
        powers[i] = 0.0;
        if (i * 32 + lane < p.experts) powers[i] = exp(static_cast<double>(choice[i]) - static_cast<double>(largest));
        sum += powers[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) choice[i] = static_cast<float>(powers[i] / sum);
}

/// Bit g is set if group g takes part. `shared` holds a float for each expert.
template <int kPerLane>
__device__ __forceinline__ unsigned best_groups(const RouteParams& p, int lane, const float (&choice)[kPerLane],
                                                float* shared) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
        if (i * 32 + lane < p.experts) shared[i * 32 + lane] = choice[i];
    __syncwarp();
    const int size = p.experts / p.groups;
    std::uint32_t key = 0;
    if (lane < p.groups) {
        TwoBest two;
        for (int i = 0, e = lane % size; i < size; ++i, e = e + 1 == size ? 0 : e + 1)  // lanes in different banks
            two.add(shared[lane * size + e]);
        key = key_of(two.worth());
    }
    unsigned kept = 0;
    for (int i = 0; i < p.top_groups; ++i) {
        const unsigned best = __reduce_max_sync(kAll, key);
        const int winner = __ffs(static_cast<int>(__ballot_sync(kAll, key == best))) - 1;
        kept |= 1U << winner;
        if (lane == winner) key = 0;
    }
    __syncwarp();  // the next row overwrites `shared`
    return kept;
}

template <int kPerLane>
__device__ __forceinline__ void choose(const RouteParams& p, std::int64_t row, int lane,
                                       std::uint32_t (&keys)[kPerLane]) {
    int my_id = 0;
    std::uint32_t my_key = 0;
    for (int slot = 0; slot < p.top_k; ++slot) {
        std::uint32_t best = 0;
        int id = 0;
#pragma unroll
        for (int i = 0; i < kPerLane; ++i)
            if (keys[i] > best) best = keys[i], id = i * 32 + lane;
        const std::uint32_t top = __reduce_max_sync(kAll, best);
        const int winner = static_cast<int>(__reduce_min_sync(kAll, best == top ? static_cast<unsigned>(id) : 0xFFFFU));
#pragma unroll
        for (int i = 0; i < kPerLane; ++i)
            if (winner == i * 32 + lane) keys[i] = 0;
        if (lane == slot) my_id = winner, my_key = top;
    }
    const bool chosen = lane < p.top_k;
    const float weight = chosen ? chosen_weight(p, row, my_id, my_key) : 0.0F;
    const double sum = warp_sum(static_cast<double>(weight));
    if (chosen) store_choice(p, row, lane, final_weight(p, weight, sum), my_id);
}

template <int kPerLane>
__global__ void __launch_bounds__(32 * kWarps) route_warp(const __grid_constant__ RouteParams p) {
    __shared__ float shared[kWarps][kPerLane * 32];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t tokens = live_tokens(p.tokens, p.num_tokens);
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
    for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; row < tokens; row += step) {
        float choice[kPerLane];
        score(p, row, lane, choice);
        bool nan = false;
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) nan = nan || isnan(choice[i]);
        if (__any_sync(kAll, nan)) {
            if (lane < p.top_k) store_choice(p, row, lane, __int_as_float(0x7FC00000), lane);
            continue;
        }
        const unsigned kept = p.groups > 1 ? best_groups(p, lane, choice, shared[warp]) : 1U;
        const int size = p.experts / p.groups;
        std::uint32_t keys[kPerLane];
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
            const int expert = i * 32 + lane;
            const bool live = expert < p.experts && (kept >> (expert / size) & 1U) != 0;
            keys[i] = live ? key_of(choice[i]) : 0;
        }
        choose(p, row, lane, keys);
    }
}

using Kernel = void (*)(RouteParams);

Kernel kernel_for(int experts) {
    if (experts <= 32) return route_warp<1>;
    if (experts <= 64) return route_warp<2>;
    if (experts <= 128) return route_warp<4>;
    if (experts <= 256) return route_warp<8>;
    if (experts <= 512) return route_warp<16>;
    return route_warp<32>;
}

}  // namespace

cudaError_t prepare_route(const RouteParams& p) {
    if (!fits_a_warp(p)) return prepare_route_block();
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, kernel_for(p.experts));
}

cudaError_t launch_route(const RouteParams& p, int max_ctas, cudaStream_t stream) {
    if (!fits_a_warp(p)) return launch_route_block(p, max_ctas, stream);
    const std::int64_t ctas = (p.tokens + kWarps - 1) / kWarps;
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    kernel_for(p.experts)<<<static_cast<unsigned>(std::min(ctas, limit)), 32 * kWarps, 0, stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
