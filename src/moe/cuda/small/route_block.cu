// SPDX-License-Identifier: Apache-2.0
// Routing with a block per token, for what does not fit a warp: up to 4096 experts, any number of choices and groups.
// Sorts (value, id) as 64-bit numbers in shared memory.
#include <algorithm>

#include "moe/cuda/small/route.cuh"
#include "moe/problem_checks.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

struct Shared {
    std::uint64_t keys[kMaxExperts];
    float choice[kMaxExperts];
    std::uint8_t kept[kMaxExperts / 2];  ///< groups have at least two experts
    double sums[kWarps];
    float maxima[kWarps];
};

/// Descending by key; equal keys by ascending id.
__device__ __forceinline__ std::uint64_t sortable(float value, int id) {
    return static_cast<std::uint64_t>(key_of(value)) << 32 | (0xFFFFFFFFU - static_cast<std::uint32_t>(id));
}
__device__ __forceinline__ int id_of(std::uint64_t key) {
    return static_cast<int>(0xFFFFFFFFU - static_cast<std::uint32_t>(key));
}

__device__ double block_sum(Shared& s, double value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) sum += s.sums[w];
    return sum;
}

__device__ float block_max(Shared& s, float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.maxima[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = s.maxima[0];
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, s.maxima[w]);
    return largest;
}

/// Fills `choice`. Says whether one of them is not a number.
__device__ bool score(const RouteParams& p, std::int64_t row, Shared& s) {
    const int thread = static_cast<int>(threadIdx.x);
    double largest = 0.0;
    double sum = 0.0;
    if (p.softmax) {
        float mine = -INFINITY;
        for (int e = thread; e < p.experts; e += kThreads) mine = fmaxf(mine, load_logit(p, row, e));
        largest = block_max(s, mine);
        for (int e = thread; e < p.experts; e += kThreads)
            sum += exp(static_cast<double>(load_logit(p, row, e)) - largest);
        sum = block_sum(s, sum);
    }
    bool nan = false;
    for (int e = thread; e < p.experts; e += kThreads) {
        const float logit = load_logit(p, row, e);
        const float choice = p.softmax ? static_cast<float>(exp(static_cast<double>(logit) - largest) / sum)
                                       : sigmoid_choice(p, logit, e);
        s.choice[e] = choice;
        nan = nan || isnan(choice);
    }
    return __syncthreads_or(nan ? 1 : 0) != 0;
}

/// Bitonic: the `count` keys in descending order, then zeros up to the next power of two.
__device__ void sort_keys(Shared& s, int count) {
    int padded = 1;
    while (padded < count) padded *= 2;
    for (int i = count + static_cast<int>(threadIdx.x); i < padded; i += kThreads) s.keys[i] = 0;
    __syncthreads();
    for (int run = 2; run <= padded; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int i = static_cast<int>(threadIdx.x); i < padded / 2; i += kThreads) {
                const int low = i / step * 2 * step + i % step;
                const std::uint64_t a = s.keys[low];
                const std::uint64_t b = s.keys[low + step];
                const bool descending = (low & run) == 0;
                if ((a < b) == descending) s.keys[low] = b, s.keys[low + step] = a;
            }
            __syncthreads();
        }
}

__device__ void keep_best_groups(const RouteParams& p, Shared& s) {
    const int size = p.experts / p.groups;
    for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads) {
        TwoBest two;
        for (int e = g * size; e < (g + 1) * size; ++e) two.add(s.choice[e]);
        s.keys[g] = sortable(two.worth(), g);
        s.kept[g] = 0;
    }
    sort_keys(s, p.groups);
    for (int i = static_cast<int>(threadIdx.x); i < p.top_groups; i += kThreads) s.kept[id_of(s.keys[i])] = 1;
    __syncthreads();
}

__device__ void choose(const RouteParams& p, std::int64_t row, Shared& s) {
    const int thread = static_cast<int>(threadIdx.x);
    const bool grouped = p.groups > 1;
    if (grouped) keep_best_groups(p, s);
    const int size = p.experts / p.groups;
    for (int e = thread; e < p.experts; e += kThreads)
        s.keys[e] = !grouped || s.kept[e / size] != 0 ? sortable(s.choice[e], e) : 0;
    sort_keys(s, p.experts);
    const auto weight_of = [&](int slot) {
        return chosen_weight(p, row, id_of(s.keys[slot]), static_cast<std::uint32_t>(s.keys[slot] >> 32));
    };
    double sum = 0.0;
    for (int slot = thread; slot < p.top_k; slot += kThreads) sum += static_cast<double>(weight_of(slot));
    sum = block_sum(s, sum);
    for (int slot = thread; slot < p.top_k; slot += kThreads)
        store_choice(p, row, slot, final_weight(p, weight_of(slot), sum), id_of(s.keys[slot]));
    __syncthreads();  // the next row overwrites the keys
}

__global__ void __launch_bounds__(kThreads, 1) route_block(const __grid_constant__ RouteParams p) {
    extern __shared__ std::uint64_t memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    const std::int64_t tokens = live_tokens(p.tokens, p.num_tokens);
    for (std::int64_t row = blockIdx.x; row < tokens; row += gridDim.x) {
        if (!score(p, row, s)) {
            choose(p, row, s);
            continue;
        }
        for (int slot = static_cast<int>(threadIdx.x); slot < p.top_k; slot += kThreads)
            store_choice(p, row, slot, __int_as_float(0x7FC00000), slot);
    }
}

}  // namespace

cudaError_t prepare_route_block() {
    return cudaFuncSetAttribute(route_block, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
}

cudaError_t launch_route_block(const RouteParams& p, int max_ctas, cudaStream_t stream) {
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    route_block<<<static_cast<unsigned>(std::min(p.tokens, limit)), kThreads, sizeof(Shared), stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
