// SPDX-License-Identifier: Apache-2.0
// Which rows meet which expert in a pass: built by every CTA for itself in shared memory, the same everywhere.
#pragma once

#include <cstdint>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/routed/routed_args.h"
#include "moe/cuda/small/route_ranks.cuh"

namespace tokamak::moe::cuda::routed {

struct Lists {
    RowTile* tiles;
    std::uint16_t* list;
    std::int16_t* local;
    int* counts;

    __device__ Lists(std::uint8_t* shared, const Args& args)
        : tiles(reinterpret_cast<RowTile*>(shared + args.shared.tiles)),
          list(reinterpret_cast<std::uint16_t*>(shared + args.shared.list)),
          local(reinterpret_cast<std::int16_t*>(shared + args.shared.local)),
          counts(reinterpret_cast<int*>(shared + args.shared.counts)) {}
    [[nodiscard]] __device__ int tile_count() const { return counts[0]; }
};

/// Working space of build_lists, in the place of the rings.
struct ListScratch {
    int* begins;           ///< [experts]: routes, then the first place in the list
    int* before;           ///< [warps, experts]: routes of a warp's share, then those of the warps before it
    std::uint16_t* ranks;  ///< [routes]: among the expert's routes of the same warp

    __device__ ListScratch(std::uint8_t* memory, int experts)
        : begins(reinterpret_cast<int*>(memory)),
          before(begins + experts),
          ranks(reinterpret_cast<std::uint16_t*>(before + kWarps * experts)) {}
};

/// Local expert of a global id, or -1. Reads nothing outside the map, whatever the id.
__device__ __forceinline__ int local_expert(const Args& args, std::int64_t id) {
    if (id < 0 || id >= args.num_experts) return -1;
    const std::int64_t row = args.expert_map != nullptr ? args.expert_map[id] : id - args.first_expert;
    return row < 0 || row >= args.local_experts ? -1 : static_cast<int>(row);
}

/// By one warp: where each expert's routes begin, and its row tiles.
__device__ __forceinline__ void place_experts(const Lists& lists, const ListScratch& scratch, int experts,
                                              int tile_rows) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int rows_before = 0;
    int tiles_before = 0;
    for (int first = 0; first < experts; first += 32) {
        const int expert = first + lane;
        const int rows = expert < experts ? scratch.begins[expert] : 0;
        const int tiles = (rows + tile_rows - 1) / tile_rows;
        int sums = rows << 16 | tiles;  // both are at most kMostPassRoutes
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int other = __shfl_up_sync(0xFFFFFFFFU, sums, distance);
            if (lane >= distance) sums += other;
        }
        const int begin = rows_before + (sums >> 16) - rows;
        const int tile_begin = tiles_before + (sums & 0xFFFF) - tiles;
        if (expert < experts) scratch.begins[expert] = begin;
        for (int tile = 0; tile < tiles; ++tile)
            lists.tiles[tile_begin + tile] = {static_cast<std::uint16_t>(begin + tile * tile_rows),
                                              static_cast<std::uint16_t>(expert),
                                              static_cast<std::uint16_t>(min(tile_rows, rows - tile * tile_rows)), 0};
        const int all = __shfl_sync(0xFFFFFFFFU, sums, 31);
        rows_before += all >> 16;
        tiles_before += all & 0xFFFF;
    }
    if (lane == 0) lists.counts[0] = tiles_before;
}

/// Fills the lists for `count` tokens from `first` on. Call by all threads; complete after the CTA's next barrier.
__device__ inline void build_lists(const Args& args, const Lists& lists, std::uint8_t* memory, std::int64_t first,
                                   int count, int tile_rows) {
    constexpr int threads = kWarps * 32;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const int experts = args.local_experts;
    const int routes = count * args.top_k;
    const int share = (routes + threads - 1) / threads * 32;  // of a warp
    const ListScratch scratch(memory, experts);
    int* const mine = scratch.before + thread / 32 * experts;
    for (int i = lane; i < experts; i += 32) mine[i] = 0;
    __syncwarp();
    const int begin = thread / 32 * share;
    for (int at = begin; at < begin + share && at < routes; at += 32) {
        const int route = at + lane;
        int expert = kNoBin;
        if (route < routes) {
            const int token = route / args.top_k;
            const std::int64_t index = (first + token) * args.ids.stride + (route - token * args.top_k);
            expert = local_expert(args, load_id(args.ids.data, args.ids.dtype == DType::i64, index));
            lists.local[route] = static_cast<std::int16_t>(expert);
        }
        const int place = take_places(mine, expert, peers(expert, args.expert_bits), lane);
        if (route < routes) scratch.ranks[route] = static_cast<std::uint16_t>(place);
    }
    __syncthreads();
    for (int expert = thread; expert < experts; expert += threads) {
        int sum = 0;
        for (int warp = 0; warp < kWarps; ++warp) {
            const int own = scratch.before[warp * experts + expert];
            scratch.before[warp * experts + expert] = sum;
            sum += own;
        }
        scratch.begins[expert] = sum;
    }
    __syncthreads();
    if (thread < 32) place_experts(lists, scratch, experts, tile_rows);
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const int expert = lists.local[route];
        if (expert < 0) continue;
        const int before = scratch.before[route / share * experts + expert];
        lists.list[scratch.begins[expert] + before + scratch.ranks[route]] = static_cast<std::uint16_t>(route);
    }
}

}  // namespace tokamak::moe::cuda::routed
