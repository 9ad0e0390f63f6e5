// SPDX-License-Identifier: Apache-2.0
// Which rows meet which expert, for more routes than a CTA can list by itself: every CTA counts a share of them, then
// all write one list in the workspace. The order of an expert's rows in it varies; no sum depends on it.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/row_lists.cuh"

namespace tokamak::moe::cuda {

/// Working space in the place of the ring.
struct GridListScratch {
    int* begins;  ///< [local experts]: routes of all CTAs, later the first place in the list
    int* before;  ///< [local experts]: routes of the CTAs before this one; at first of this one

    __device__ GridListScratch(std::uint8_t* memory, int experts)
        : begins(reinterpret_cast<int*>(memory)), before(begins + experts) {}
};

inline constexpr std::uint32_t kNoPlace = 0xFFFFFFFFU;

/// The CTA's share of the routes of a pass.
struct RouteShare {
    int begin;
    int end;

    __device__ explicit RouteShare(int routes) {
        const int share = (routes + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
        begin = min(routes, static_cast<int>(blockIdx.x) * share);
        end = min(routes, begin + share);
    }
};

/// Ranks the share's routes; their numbers go into the workspace. Complete after the grid's next barrier.
__device__ __forceinline__ void count_share(const GroupedArgs& args, std::uint8_t* memory, std::int64_t first,
                                            int count) {
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    const int experts = args.local_experts;
    const GridListScratch scratch(memory, experts);
    const RouteShare share(count * args.top_k);
    for (int expert = thread; expert < experts; expert += threads) scratch.before[expert] = 0;
    __syncthreads();
    for (int route = share.begin + thread; route < share.end; route += threads) {
        const int expert = local_expert(args, load_id(args.ids, first + route / args.top_k, route % args.top_k));
        std::uint32_t place = kNoPlace;
        if (expert >= 0)
            place = static_cast<std::uint32_t>(expert) << 16 |
                    static_cast<std::uint32_t>(atomicAdd(&scratch.before[expert], 1));
        args.grid_places[route] = place;
    }
    __syncthreads();
    std::int32_t* const to = args.cta_counts + static_cast<std::int64_t>(blockIdx.x) * experts;
    for (int expert = thread; expert < experts; expert += threads) to[expert] = scratch.before[expert];
}

/// Sums the counts of all CTAs, and of those before this one.
__device__ __forceinline__ void sum_shares(const GroupedArgs& args, const GridListScratch& scratch) {
    const int experts = args.local_experts;
    for (int expert = static_cast<int>(threadIdx.x); expert < experts; expert += static_cast<int>(blockDim.x)) {
        int sum = 0;
        int before = 0;
#pragma unroll 12
        for (int cta = 0; cta < static_cast<int>(gridDim.x); ++cta) {
            const int own = __ldcg(args.cta_counts + static_cast<std::int64_t>(cta) * experts + expert);
            sum += own;
            before += cta < static_cast<int>(blockIdx.x) ? own : 0;
        }
        scratch.begins[expert] = sum;
        scratch.before[expert] = before;
    }
}

/// After a barrier of the grid behind count_share. Complete after the grid's next.
template <class Shape>
__device__ __forceinline__ void place_shares(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                             int count) {
    const int experts = args.local_experts;
    const GridListScratch scratch(memory, experts);
    const RouteShare share(count * args.top_k);
    sum_shares(args, scratch);
    __syncthreads();
    if (threadIdx.x < 32) place_experts<Shape>(lists, scratch.begins, experts);
    __syncthreads();
    for (int route = share.begin + static_cast<int>(threadIdx.x); route < share.end;
         route += static_cast<int>(blockDim.x)) {
        const std::uint32_t place = args.grid_places[route];  // the same thread wrote it
        if (place == kNoPlace) continue;
        const int expert = static_cast<int>(place >> 16);
        args.grid_list[scratch.begins[expert] + scratch.before[expert] + static_cast<int>(place & 0xFFFFU)] = route;
    }
}

}  // namespace tokamak::moe::cuda
