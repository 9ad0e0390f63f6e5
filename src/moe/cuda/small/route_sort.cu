// SPDX-License-Identifier: Apache-2.0
// Routing for more than 32 choices or groups: a block per token sorts (value, id) as 64-bit numbers in shared memory.
#include <algorithm>

#include "moe/cuda/small/route.cuh"
#include "moe/problem_checks.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kSortBytes = kMaxExperts * 8;
constexpr int kGroupBytes = kMaxExperts / 2;  ///< groups have at least two experts
constexpr int kSharedBytes = kSortBytes + kGroupBytes + score_bytes(kMaxExperts, kThreads / 32);

/// Descending by key; equal keys by ascending id.
__device__ __forceinline__ std::uint64_t sortable(std::uint32_t key, int id) {
    return static_cast<std::uint64_t>(key) << 32 | (0xFFFFFFFFU - static_cast<std::uint32_t>(id));
}
__device__ __forceinline__ int id_of(std::uint64_t key) {
    return static_cast<int>(0xFFFFFFFFU - static_cast<std::uint32_t>(key));
}

/// Bitonic: the `count` keys in descending order, then zeros up to the next power of two.
__device__ void sort_keys(std::uint64_t* keys, int count) {
    int padded = 1;
    while (padded < count) padded *= 2;
    for (int i = count + static_cast<int>(threadIdx.x); i < padded; i += kThreads) keys[i] = 0;
    __syncthreads();
    for (int run = 2; run <= padded; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int i = static_cast<int>(threadIdx.x); i < padded / 2; i += kThreads) {
                const int low = 2 * i - (i & (step - 1));
                const std::uint64_t a = keys[low];
                const std::uint64_t b = keys[low + step];
                const bool descending = (low & run) == 0;
                if ((a < b) == descending) keys[low] = b, keys[low + step] = a;
            }
            __syncthreads();
        }
}

/// The experts of all but the best groups are out.
__device__ void keep_best_groups(const RouteParams& p, const Scores& s, std::uint64_t* sorted, std::uint8_t* kept) {
    const int size = p.experts / p.groups;
    for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads) {
        TwoBest two;
        for (int e = g * size; e < (g + 1) * size; ++e) two.add(value_of_key(s.keys[e]));
        sorted[g] = sortable(key_of(two.worth()), g);
        kept[g] = 0;
    }
    sort_keys(sorted, p.groups);
    for (int i = static_cast<int>(threadIdx.x); i < p.top_groups; i += kThreads) kept[id_of(sorted[i])] = 1;
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += kThreads)
        if (kept[e / size] == 0) s.keys[e] = 0;
    __syncthreads();
}

__device__ void choose(const RouteParams& p, std::int64_t row, const Scores& s, std::uint64_t* sorted) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int e = thread; e < p.experts; e += kThreads) sorted[e] = sortable(s.keys[e], e);
    sort_keys(sorted, p.experts);
    double sum = 0.0;
    for (int slot = thread; slot < p.top_k; slot += kThreads)
        sum += static_cast<double>(static_cast<float>(s.values[id_of(sorted[slot])]));
    sum = block_sum(s, sum);
    for (int slot = thread; slot < p.top_k; slot += kThreads) {
        const int id = id_of(sorted[slot]);
        store_choice(p, row, slot, final_weight(p, static_cast<float>(s.values[id]), sum), id);
    }
}

__global__ void __launch_bounds__(kThreads, 1) route_sort(const __grid_constant__ RouteParams p) {
    extern __shared__ std::uint8_t memory[];
    auto* const sorted = reinterpret_cast<std::uint64_t*>(memory);
    std::uint8_t* const kept = memory + kSortBytes;
    const Scores scores(memory + kSortBytes + kGroupBytes, p.experts, kThreads / 32);
    const std::int64_t tokens = live_tokens(p.tokens, p.num_tokens);
    for (std::int64_t row = blockIdx.x; row < tokens; row += gridDim.x) {
        if (score_row(p, row, scores)) {
            store_nan_row(p, row);
        } else {
            if (p.groups > 1) keep_best_groups(p, scores, sorted, kept);
            choose(p, row, scores, sorted);
        }
        __syncthreads();  // the next row overwrites the scores
    }
}

}  // namespace

cudaError_t prepare_route_sort() {
    return cudaFuncSetAttribute(route_sort, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

cudaError_t launch_route_sort(const RouteParams& p, int max_ctas, cudaStream_t stream) {
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    route_sort<<<static_cast<unsigned>(std::min(p.tokens, limit)), kThreads, kSharedBytes, stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
