// SPDX-License-Identifier: Apache-2.0
// Which rows meet which expert: every CTA counts a share of the routes, then all of them write one list. The order of
// an expert's rows in it varies; no sum depends on it.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/wide/row_split.h"
#include "moe/cuda/wide/shape.cuh"

namespace tokamak::moe::cuda {

struct WideFacts {
    int tiles = 0;          ///< row tiles of all experts
    int several = 0;        ///< whether an expert has more than one
    int gate_up_units = 0;  ///< of a row tile, where an expert has several
    int down_units = 0;
};

/// Where a row tile begins in the list, how many rows it has, and its number among those of all experts.
struct WideTile {
    int first;
    int rows;
    int number;
};

/// Views of the tables (WideShared says what they hold).
struct WideTables {
    WideFacts* facts;
    int* begins;
    int* tiles;
    std::int32_t* dealt;
    int step;    ///< in which the tiles of an expert share its rows
    int narrow;  ///< a row tile with no more has its own price
    int extra;   ///< that a tile may have behind a step

    __device__ WideTables(std::uint8_t* shared, const WideArgs& args, int step_rows, int narrow_rows, int extra_rows)
        : facts(reinterpret_cast<WideFacts*>(shared + args.lists.facts)),
          begins(reinterpret_cast<int*>(shared + args.lists.begins)),
          tiles(reinterpret_cast<int*>(shared + args.lists.tiles)),
          dealt(args.dealt),
          step(step_rows),
          narrow(narrow_rows),
          extra(extra_rows) {}
    [[nodiscard]] __device__ int rows(int expert) const { return begins[expert + 1] - begins[expert]; }
    [[nodiscard]] __device__ int tile_count(int expert) const { return tiles[expert + 1] - tiles[expert]; }
    /// Of an expert that has rows.
    [[nodiscard]] __device__ WideRowSplit split(int expert) const {
        return {rows(expert), tile_count(expert), step, extra};
    }
    /// Row tiles of an expert that are worked at in pairs, the first ones: all but a short one at the end.
    [[nodiscard]] __device__ int paired_tiles(int expert) const {
        const int count = tile_count(expert);
        return (count - (split(expert).rows_of(count - 1) <= narrow ? 1 : 0)) / 2 * 2;
    }
    [[nodiscard]] __device__ WideTile tile_of(int place, int experts) const {
        int low = 0;
        int high = experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (begins[middle] <= place ? low : high) = middle;
        }
        const WideRowSplit rows_split = split(low);
        const int tile = rows_split.tile_of(place - begins[low]);
        return {begins[low] + rows_split.first(tile), rows_split.rows_of(tile), tiles[low] + tile};
    }
};

/// Tokens of the pass.
__device__ __forceinline__ int pass_count(const WideArgs& args) {
    const std::int64_t left = live_tokens(args.tokens, args.num_tokens) - args.first_token;
    return left >= args.pass_tokens ? args.pass_tokens : left > 0 ? static_cast<int>(left) : 0;
}

inline constexpr std::uint32_t kNoRoute = 0xFFFFFFFFU;

__device__ __forceinline__ int wide_local_expert(const WideArgs& args, std::int64_t token, int slot) {
    return local_expert(args, load_id(args.ids.data, args.ids.dtype == DType::i64, token * args.ids.stride + slot));
}

/// The CTA's share of the routes: expert and rank of each into `own`, numbers for each expert into the workspace.
__device__ __forceinline__ void count_share(const WideArgs& args, int* counts, std::uint32_t* own, int begin, int end) {
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    for (int expert = thread; expert < args.local_experts; expert += threads) counts[expert] = 0;
    __syncthreads();
    for (int route = begin + thread; route < end; route += threads) {
        const int token = route / args.top_k;
        const int expert = wide_local_expert(args, args.first_token + token, route - token * args.top_k);
        own[route - begin] = expert < 0 ? kNoRoute
                                        : static_cast<std::uint32_t>(expert) << 16 |
                                              static_cast<std::uint32_t>(atomicAdd(&counts[expert], 1));
    }
    __syncthreads();
    std::int32_t* const to = args.counts + static_cast<std::int64_t>(blockIdx.x) * args.local_experts;
    for (int expert = thread; expert < args.local_experts; expert += threads) to[expert] = counts[expert];
}

/// rows[e]: routes to e of all CTAs; before[e]: of those before this one. Both are zeros at first.
__device__ __forceinline__ void sum_counts(const WideArgs& args, int* rows, int* before) {
    const int experts = args.local_experts;
    const int padded = (experts + 31) / 32 * 32;
    const int threads = static_cast<int>(blockDim.x);
    const int parts = max(1, threads / padded);
    const int part = static_cast<int>(threadIdx.x) / padded;
    if (part >= parts) return;
    const int ctas = static_cast<int>(gridDim.x);
    const int share = (ctas + parts - 1) / parts;
    const int last = min(ctas, (part + 1) * share);
    for (int expert = static_cast<int>(threadIdx.x) % padded; expert < experts; expert += threads) {
        int sum = 0;
        int sum_before = 0;
#pragma unroll 12
        for (int cta = part * share; cta < last; ++cta) {
            const int count = __ldcg(args.counts + static_cast<std::int64_t>(cta) * experts + expert);
            sum += count;
            sum_before += cta < static_cast<int>(blockIdx.x) ? count : 0;
        }
        atomicAdd(&rows[expert], sum);
        atomicAdd(&before[expert], sum_before);
    }
}

/// Whether every CTA counts all routes: where they are few, that takes less than the grid's barrier and the counts of
/// the others.
template <class Shape>
__device__ __forceinline__ bool wide_counts_all(const WideArgs& args, int routes) {
    constexpr int each = 16;  // routes of a thread
    return !Shape::kQuantized && routes <= Shape::kThreads * each && args.ids.stride == args.top_k;
}

/// What count_share and sum_counts find, by the CTA alone; `ranks` [experts] is for those of its share.
__device__ __forceinline__ void count_all(const WideArgs& args, int* rows, int* before, int* ranks, std::uint32_t* own,
                                          int begin, int end, int routes) {
    constexpr int batch = 8;  // ids of a thread on their way at once
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    for (int expert = thread; expert < args.local_experts; expert += threads) {
        rows[expert] = 0;
        before[expert] = 0;
        ranks[expert] = 0;
    }
    __syncthreads();
    for (int first = thread; first < routes; first += threads * batch) {
        int experts[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int route = first + i * threads;
            experts[i] = route < routes ? wide_local_expert(args, args.first_token, route) : -1;
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int route = first + i * threads;
            const bool here = route >= begin && route < end;
            if (here) own[route - begin] = kNoRoute;
            if (experts[i] < 0) continue;
            atomicAdd(&rows[experts[i]], 1);
            if (route < begin) atomicAdd(&before[experts[i]], 1);
            if (here)
                own[route - begin] = static_cast<std::uint32_t>(experts[i]) << 16 |
                                     static_cast<std::uint32_t>(atomicAdd(&ranks[experts[i]], 1));
        }
    }
}

/// Into how many units a matrix's strips are cut for each row tile so that the CTA with the most of them is done first;
/// pairs: an even number.
template <class Shape>
__device__ __forceinline__ int choose_wide_units(const DecodeMatrix& matrix, int tiles, bool down) {
    constexpr int step = Shape::kPairs ? 2 : 1;
    if ((!down && Shape::kGroupStrips > 1) || Shape::kConverted)
        return (matrix.strips + step * Shape::kGroupStrips - 1) / (step * Shape::kGroupStrips) * step;
    // A warpgroup without a strip is a third that idles, and CTAs that are done early go on with the down phase.
    if constexpr (Shape::kWarpgroups == 3) return (matrix.strips + Shape::kStrips - 1) / Shape::kStrips;
    int best = step;
    unsigned least = 0xFFFFFFFFU;
    for (int strips = 1; strips <= Shape::kStrips; ++strips) {
        const int units = (matrix.strips + step * strips - 1) / (step * strips) * step;
        const unsigned rounds = (static_cast<unsigned>(tiles * units) + gridDim.x - 1) / gridDim.x;
        // A unit has its price besides its strips.
        const unsigned cost = rounds * static_cast<unsigned>(strips * 10 + 4);
        if (cost > least) continue;
        least = cost;
        best = units;
    }
    return best;
}

/// By one warp: `rows` [experts] become the tables of begins and tiles, and the facts.
template <class Shape>
__device__ __forceinline__ void place_wide_experts(const WideArgs& args, const WideTables& tables, const int* rows_of) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int before[2] = {0, 0};
    int several = 0;
    for (int first = 0; first < args.local_experts; first += 32) {
        const int expert = first + lane;
        const int rows = expert < args.local_experts ? rows_of[expert] : 0;
        const int tiles = wide_tile_count(rows, Shape::kTallRows, Shape::kExtraRows);
        const int own[2] = {rows, tiles};
        int sums[2] = {rows, tiles};
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int other = __shfl_up_sync(0xFFFFFFFFU, sums[i], distance);
                if (lane >= distance) sums[i] += other;
            }
        if (expert < args.local_experts) {
            tables.begins[expert] = before[0] + sums[0] - own[0];
            tables.tiles[expert] = before[1] + sums[1] - own[1];
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) before[i] += __shfl_sync(0xFFFFFFFFU, sums[i], 31);
        several |= tiles > 1 ? 1 : 0;
    }
    several = __any_sync(0xFFFFFFFFU, several) ? 1 : 0;
    if (lane != 0) return;
    tables.begins[args.local_experts] = before[0];
    tables.tiles[args.local_experts] = before[1];
    *tables.facts = {before[1], several, choose_wide_units<Shape>(args.gate_up, before[1], false),
                     choose_wide_units<Shape>(args.down, before[1], true)};
}

/// Tokens with a route here, those of the CTA's share, in any order. By all warps but the first.
__device__ __forceinline__ void collect_live(const WideArgs& args, const std::uint32_t* own, int begin, int end) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int tokens = (end - begin) / args.top_k;
    for (int first = static_cast<int>(threadIdx.x) / 32 * 32 - 32; first < tokens;
         first += static_cast<int>(blockDim.x) - 32) {
        const int token = first + lane;
        bool live = false;
        for (int slot = 0; token < tokens && slot < args.top_k; ++slot)
            live |= own[token * args.top_k + slot] != kNoRoute;
        const std::uint32_t all = __ballot_sync(0xFFFFFFFFU, live);
        int place = 0;
        if (lane == 0 && all != 0) place = atomicAdd(args.dealt + kWideLiveTokens, __popc(all));
        place = __shfl_sync(0xFFFFFFFFU, place, 0) + __popc(all & ((1U << lane) - 1));
        if (live) args.owners[place] = begin / args.top_k + token;
    }
}

/// List and tables for `count` tokens. By all threads of the grid; complete after the grid's next barrier.
template <class Shape>
__device__ inline void build_wide_lists(const WideArgs& args, const WideTables& tables, std::uint8_t* scratch,
                                        int count) {
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    const int experts = args.local_experts;
    const int routes = count * args.top_k;
    const int whole = Shape::kQuantized ? args.top_k : 1;  // a token's routes are of one CTA
    const int share = (routes / whole + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x) * whole;
    const int begin = min(routes, static_cast<int>(blockIdx.x) * share);
    const int end = min(routes, begin + share);
    int* const rows = reinterpret_cast<int*>(scratch);
    int* const before = rows + experts;
    auto* const own = reinterpret_cast<std::uint32_t*>(before + experts);
    if (wide_counts_all<Shape>(args, routes)) {
        count_all(args, rows, before, reinterpret_cast<int*>(own + share), own, begin, end, routes);
    } else {
        count_share(args, rows, own, begin, end);
        cooperative_groups::this_grid().sync();
        for (int expert = thread; expert < 2 * experts; expert += threads) rows[expert] = 0;
        __syncthreads();
        sum_counts(args, rows, before);
    }
    __syncthreads();
    if (thread < 32)
        place_wide_experts<Shape>(args, tables, rows);
    else if (Shape::kQuantized)
        collect_live(args, own, begin, end);
    __syncthreads();
    for (int route = begin + thread; route < end; route += threads) {
        const std::uint32_t of_share = own[route - begin];
        int place = -1;
        if (of_share != kNoRoute) {
            const int expert = static_cast<int>(of_share >> 16);
            place = tables.begins[expert] + before[expert] + static_cast<int>(of_share & 0xFFFFU);
            args.list[place] = route;
        }
        args.places[route] = place;
    }
}

}  // namespace tokamak::moe::cuda
