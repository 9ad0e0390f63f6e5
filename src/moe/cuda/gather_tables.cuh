// SPDX-License-Identifier: Apache-2.0
// Routes of a pass in groups of one expert, built by every CTA for itself in shared memory, the same everywhere.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

/// Routes of one expert that are multiplied together: those of the list from `first` on, up to the next group's.
struct RouteGroup {
    std::uint16_t expert;
    std::uint16_t first;
};

/// The groups' experts, as the stream of weights sees them.
struct GroupExperts {
    const RouteGroup* groups;
    __device__ int operator[](int rank) const { return groups[rank].expert; }
};

/// Views of the tables (DecodeShared says what they hold).
struct GroupTables {
    RouteGroup* groups;
    std::uint16_t* list;
    std::uint32_t* live;  ///< bit of a route: it has an expert here
    int* count;           ///< of groups; lies behind the bits
    // While building, in the place of the partial sums:
    int* routes_of;     ///< [local experts]
    int* begins;        ///< [local experts]: first place in the list
    int* totals;        ///< [warps]
    std::int64_t* ids;  ///< [routes], in the place of the rows

    __device__ GroupTables(std::uint8_t* shared, const DecodeArgs& args)
        : groups(reinterpret_cast<RouteGroup*>(shared + args.shared.route_groups)),
          list(reinterpret_cast<std::uint16_t*>(shared + args.shared.route_list)),
          live(reinterpret_cast<std::uint32_t*>(shared + args.shared.live_routes)),
          count(reinterpret_cast<int*>(live + args.shared.live_words)),
          routes_of(reinterpret_cast<int*>(shared + args.shared.partials)),
          begins(routes_of + args.local_experts),
          totals(begins + args.local_experts),
          ids(reinterpret_cast<std::int64_t*>(shared + args.shared.rows)) {}

    [[nodiscard]] __device__ int active_count() const { return *count; }
    [[nodiscard]] __device__ GroupExperts experts() const { return {groups}; }
    [[nodiscard]] __device__ int slot(int rank, int place) const { return list[groups[rank].first + place]; }
    [[nodiscard]] __device__ TokenList tokens_of(int rank) const {
        return {0x76543210U, groups[rank + 1].first - groups[rank].first};
    }
    [[nodiscard]] __device__ int column_slot(int rank, int place) const {
        const int at = groups[rank].first + place;
        return at < groups[rank + 1].first ? list[at] : -1;
    }
    [[nodiscard]] __device__ bool is_live(int route) const { return (live[route / 32] >> (route % 32) & 1U) != 0; }
};

/// Sends for the ids of a pass. Which of them are live is not known yet: their number is on its way too.
template <int Threads>
__device__ __forceinline__ void copy_ids(const DecodeArgs& args, const GroupTables& tables, std::int64_t first) {
    namespace ptx = tokamak::cuda::ptx;
    const auto tokens = static_cast<int>(min(static_cast<std::int64_t>(args.gather_tokens), args.tokens - first));
    const bool wide = args.ids.dtype == DType::i64;
    const std::uint32_t to = ptx::shared_address(tables.ids);
#pragma unroll 1
    for (int route = static_cast<int>(threadIdx.x); route < tokens * args.top_k; route += Threads) {
        const int token = quotient(route, args.by_top_k);
        const std::int64_t at = (first + token) * args.ids.stride + (route - token * args.top_k);
        if (wide)
            ptx::copy_small<8>(to + route * 8, static_cast<const std::int64_t*>(args.ids.data) + at, true);
        else
            ptx::copy_small<4>(to + route * 8, static_cast<const std::int32_t*>(args.ids.data) + at, true);
    }
    ptx::copy_commit();
}

/// Sum over the lanes up to this one.
__device__ __forceinline__ int sum_up_to(int value, int lane) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xFFFFFFFFU, value, distance);
        if (lane >= distance) value += other;
    }
    return value;
}

/// Where each expert's routes begin, and its groups; a thread has a run of experts. Ends with a barrier of the CTA.
template <int Threads>
__device__ __forceinline__ void place_groups(const DecodeArgs& args, const GroupTables& tables) {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const int each = (args.local_experts + Threads - 1) / Threads;
    const int first = min(thread * each, args.local_experts);
    const int end = min(first + each, args.local_experts);
    const auto groups_of = [&](int routes) { return quotient(routes + args.group_rows - 1, args.by_group_rows); };
    int own = 0;  // routes, and groups times 2^16
#pragma unroll 1
    for (int expert = first; expert < end; ++expert) {
        const int routes = tables.routes_of[expert];
        own += routes + (groups_of(routes) << 16);
    }
    const int up_to = sum_up_to(own, lane);
    if (lane == 31) tables.totals[thread / 32] = up_to;
    __syncthreads();
    int before = up_to - own;
#pragma unroll
    for (int warp = 0; warp < Threads / 32 - 1; ++warp)
        if (warp < thread / 32) before += tables.totals[warp];
    int place = before & 0xFFFF;
    int group = before >> 16;
#pragma unroll 1
    for (int expert = first; expert < end; ++expert) {
        tables.begins[expert] = place;
        const int stop = place + tables.routes_of[expert];
#pragma unroll 1
        for (int from = place; from < stop; from += args.group_rows)
            tables.groups[group++] = {static_cast<std::uint16_t>(expert), static_cast<std::uint16_t>(from)};
        place = stop;
    }
    if (thread == Threads - 1) {
        tables.groups[group] = {0, static_cast<std::uint16_t>(place)};
        *tables.count = group;
    }
    __syncthreads();
}

/// A route while the tables are built.
struct PlacedRoute {
    std::int32_t expert;  ///< local, or -1
    std::int32_t place;   ///< among the expert's routes
};

/// Puts each expert's routes into ascending order. Ends with a barrier of the CTA.
template <int Threads>
__device__ __forceinline__ void sort_routes(const GroupTables& tables, PlacedRoute* placed, int routes) {
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int route = thread; route < routes; route += Threads) {
        const int expert = placed[route].expert;
        if (expert < 0) continue;
        const std::uint16_t* const run = tables.list + tables.begins[expert];
        int place = 0;
#pragma unroll 4
        for (int i = 0; i < tables.routes_of[expert]; ++i) place += run[i] < route ? 1 : 0;
        placed[route].place = place;
    }
    __syncthreads();
#pragma unroll 1
    for (int route = thread; route < routes; route += Threads) {
        const PlacedRoute own = placed[route];
        if (own.expert >= 0) tables.list[tables.begins[own.expert] + own.place] = static_cast<std::uint16_t>(route);
    }
    __syncthreads();
}

/// Fills the tables for `count` tokens. The order of an expert's routes decides which of them share a group, and every
/// CTA must come to the same: places are taken as they come, and put into order where an expert has several groups.
/// Call by all threads; ends with a barrier of the CTA. Loops are short on purpose: this runs once.
template <int Threads>
__device__ __forceinline__ void build_groups(const DecodeArgs& args, const GroupTables& tables, int count) {
    const int thread = static_cast<int>(threadIdx.x);
    const int routes = count * args.top_k;
    auto* const placed = reinterpret_cast<PlacedRoute*>(tables.ids);  // in the place of this thread's own ids
#pragma unroll 1
    for (int i = thread; i < args.local_experts; i += Threads) tables.routes_of[i] = 0;
    tokamak::cuda::ptx::copy_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int route = thread; route - thread % 32 < routes; route += Threads) {
        PlacedRoute own{-1, 0};
        if (route < routes) {
            const std::int64_t id = args.ids.dtype == DType::i64
                                        ? tables.ids[route]
                                        : *reinterpret_cast<const std::int32_t*>(tables.ids + route);
            own.expert = local_expert(args, id);
            if (own.expert >= 0) own.place = atomicAdd(&tables.routes_of[own.expert], 1);
            placed[route] = own;
        }
        const unsigned live = __ballot_sync(0xFFFFFFFFU, own.expert >= 0);
        if (thread % 32 == 0) tables.live[route / 32] = live;
    }
    __syncthreads();
    place_groups<Threads>(args, tables);
    bool several = false;
#pragma unroll 1
    for (int route = thread; route < routes; route += Threads) {
        const PlacedRoute own = placed[route];
        if (own.expert < 0) continue;
        several |= tables.routes_of[own.expert] > args.group_rows;
        tables.list[tables.begins[own.expert] + own.place] = static_cast<std::uint16_t>(route);
    }
    if (__syncthreads_or(several ? 1 : 0) != 0) sort_routes<Threads>(tables, placed, routes);
}

}  // namespace tokamak::moe::cuda
