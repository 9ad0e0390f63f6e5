// SPDX-License-Identifier: Apache-2.0
// Which rows meet which expert: built by every CTA for itself in shared memory, the same everywhere.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"
#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/grouped/grouped_args.h"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct Unit {
    RowTile tile;
    int index;  ///< of the row tile
    int strip;
    int strips;

    /// Rows in whole eights.
    [[nodiscard]] __device__ int width() const { return (tile.rows + 7) / 8 * 8; }
};

/// A unit of a phase (0, 1; 2: the end of a pass) with the turn that it is for, counted from 1.
struct alignas(16) UnitDeal {
    Unit unit;
    int phase;
    int turn;
};
static_assert(sizeof(UnitDeal) == kUnitDealBytes);

/// The units of a CTA in shared memory: the warp that asks for them tells the other roles.
struct UnitDeals {
    std::uint8_t* memory;

    [[nodiscard]] __device__ UnitDeal& at(int turn) const {
        return reinterpret_cast<UnitDeal*>(memory)[turn % kUnitDeals];
    }
    /// By all threads of a CTA.
    __device__ void clear() const {
        if (threadIdx.x < kUnitDeals) at(static_cast<int>(threadIdx.x)).turn = 0;
    }
    /// By one thread.
    __device__ void put(int turn, const Unit& unit, int phase) const {
        UnitDeal& deal = at(turn);
        deal.unit = unit;
        deal.phase = phase;
        asm volatile("st.release.cta.shared.s32 [%0], %1;" ::"r"(tokamak::cuda::ptx::shared_address(&deal.turn)),
                     "r"(turn)
                     : "memory");
    }
    [[nodiscard]] __device__ const UnitDeal& await(int turn) const {
        const UnitDeal& deal = at(turn);
        int found = 0;
        while (found != turn)
            asm volatile("ld.acquire.cta.shared.s32 %0, [%1];"
                         : "=r"(found)
                         : "r"(tokamak::cuda::ptx::shared_address(&deal.turn))
                         : "memory");
        return deal;
    }
};

/// Views of the lists (GroupedShared says what they hold).
struct RowLists {
    int* counts;
    std::uint16_t* list;
    const std::int32_t* grid_list;  ///< in its place where the grid made one list
    RowTile* tiles;
    std::int16_t* route_expert;
    std::int16_t* tile_ends;
    UnitDeals deals;

    __device__ RowLists(std::uint8_t* shared, const GroupedArgs& args)
        : counts(reinterpret_cast<int*>(shared + args.lists.counts)),
          list(reinterpret_cast<std::uint16_t*>(shared + args.lists.list)),
          grid_list(args.grid_list),
          tiles(reinterpret_cast<RowTile*>(shared + args.lists.tiles)),
          route_expert(reinterpret_cast<std::int16_t*>(shared + args.lists.route_expert)),
          tile_ends(reinterpret_cast<std::int16_t*>(shared + args.lists.tile_ends)),
          deals{shared + args.lists.deals} {}
    template <class Shape>
    [[nodiscard]] __device__ int route(int place) const {
        return Shape::kGridLists ? __ldcg(grid_list + place) : list[place];
    }
    [[nodiscard]] __device__ int tile_count() const { return counts[1]; }
    /// Whether no expert has several row tiles.
    [[nodiscard]] __device__ bool single_tiles() const { return counts[0] == 0; }
    /// Units of each row tile in the gate/up and in the down phase.
    [[nodiscard]] __device__ int units(bool down) const { return counts[down ? 3 : 2]; }
    [[nodiscard]] __device__ int cost() const { return counts[4]; }
    /// The CTA's range of the down phase's strips, numbered tile by tile, where no expert has several row tiles.
    [[nodiscard]] __device__ int down_begin() const { return counts[5]; }
    [[nodiscard]] __device__ int down_end() const { return counts[6]; }
    /// Units that are asked for: row tiles that have the down phase's usual units.
    [[nodiscard]] __device__ int coarse_tiles() const { return counts[5]; }
};

/// Working space of build_lists, in the place of the ring.
struct ListScratch {
    int* begins;            ///< [local experts]: first place of an expert in the list
    std::uint16_t* before;  ///< [warps, local experts]: routes of a warp's share, then those of the warps before it
    std::uint16_t* live;    ///< [routes]: at the beginning of a warp's share those of its routes that have an expert
    std::uint16_t* ranks;   ///< [routes]: of them among the expert's routes of the same warp

    __device__ ListScratch(std::uint8_t* memory, int experts, int warps, int routes)
        : begins(reinterpret_cast<int*>(memory)),
          before(reinterpret_cast<std::uint16_t*>(begins + experts)),
          live(before + warps * experts),
          ranks(live + (routes + 31) / 32 * 32) {}
};

__device__ __forceinline__ std::int64_t load_id(const DecodeRows& ids, std::int64_t token, int slot) {
    const std::int64_t at = token * ids.stride + slot;
    return ids.dtype == DType::i64 ? static_cast<const std::int64_t*>(ids.data)[at]
                                   : static_cast<const std::int32_t*>(ids.data)[at];
}

/// The routes of a pass that a warp ranks and lists: a run of whole 32.
struct WarpRoutes {
    int begin;
    int end;

    __device__ WarpRoutes(int routes, int warps) {
        const int share = (routes + warps * 32 - 1) / (warps * 32) * 32;
        begin = static_cast<int>(threadIdx.x) / 32 * share;
        end = min(routes, begin + share);
    }
};

/// A warp ranks its `count` routes that have an expert here, expert by expert, in order. `counts`: its own.
__device__ __forceinline__ void rank_routes(const RowLists& lists, const std::uint16_t* live, std::uint16_t* ranks,
                                            std::uint16_t* counts, int count) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
    for (int first = 0; first < count; first += 32) {
        const int i = first + lane;
        const int expert = i < count ? lists.route_expert[live[i]] : -1;
        const std::uint32_t same = __match_any_sync(0xFFFFFFFFU, expert);
        const int old = expert >= 0 ? counts[expert] : 0;
        __syncwarp();
        if (expert >= 0) {
            ranks[i] = static_cast<std::uint16_t>(old + __popc(same & ((1U << lane) - 1U)));
            if (same >> lane == 1U) counts[expert] = static_cast<std::uint16_t>(old + __popc(same));
        }
        __syncwarp();
    }
}

/// What a strip costs, where CTAs have ranges of strips: 8- and 16-bit weights are multiplied faster than they arrive,
/// whatever rows they meet.
inline constexpr int kStripCost = 20;

/// By one warp: where each expert's routes begin, and its row tiles, which share its rows evenly if they are many.
/// `begins` holds the experts' numbers of routes.
template <class Shape>
__device__ __forceinline__ void place_experts(const RowLists& lists, int* begins, int experts) {
    constexpr int most = Shape::kTileRows;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int rows_before = 0;
    int tiles_before = 0;
    int several = 0;
    for (int first = 0; first < experts; first += 32) {
        const int expert = first + lane;
        const int rows = expert < experts ? begins[expert] : 0;
        const int tiles = (rows + most - 1) / most;
        const int each = Shape::kGridLists && tiles > 1 ? ((rows + tiles - 1) / tiles + 7) / 8 * 8 : most;
        int row_sum = rows;
        int tile_sum = tiles;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int other_rows = __shfl_up_sync(0xFFFFFFFFU, row_sum, distance);
            const int other_tiles = __shfl_up_sync(0xFFFFFFFFU, tile_sum, distance);
            if (lane >= distance) {
                row_sum += other_rows;
                tile_sum += other_tiles;
            }
        }
        const int begin = rows_before + row_sum - rows;
        if (expert < experts) {
            begins[expert] = begin;
            if constexpr (Shape::kDealt) lists.tile_ends[expert] = static_cast<std::int16_t>(tiles_before + tile_sum);
        }
        for (int tile = 0; tile < tiles; ++tile)
            lists.tiles[tiles_before + tile_sum - tiles + tile] = {
                begin + tile * each,
                static_cast<std::int16_t>(expert),
                static_cast<std::int16_t>(min(each, rows - tile * each)),
                static_cast<std::int16_t>(tile),
                static_cast<std::int16_t>(tiles),
                (tiles_before + tile_sum - tiles + tile) * kStripCost};
        several |= tiles > 1 ? 1 : 0;
        rows_before += __shfl_sync(0xFFFFFFFFU, row_sum, 31);
        tiles_before += __shfl_sync(0xFFFFFFFFU, tile_sum, 31);
    }
    several = __any_sync(0xFFFFFFFFU, several) ? 1 : 0;
    if (lane == 0) {
        lists.counts[0] = several;
        lists.counts[1] = tiles_before;
        lists.counts[4] = tiles_before * kStripCost;
    }
}

/// Ids of a lane's routes, 32 apart, on their way together: nothing stands between the loads, and what they bring is
/// looked at when it is needed. Few instructions: every launch meets them in a cold instruction cache. A launch before
/// may still write them: what waits for it stands right before the loads, behind what their addresses need.
class SomeIds {
  public:
    static constexpr int kCount = 8;

    /// From `route` on; of those before `end`. `Waits`: for the launch before, if it may still run.
    template <bool Waits>
    __device__ __forceinline__ void load(const GroupedArgs& args, std::int64_t first, int route, int end) {
        if (args.ids.dtype == DType::i64)
            load_from<int2, Waits>(args, first, route, end);
        else
            load_from<int, Waits>(args, first, route, end);
    }
    /// Ids become local experts, or -1. Reads nothing outside the map, whatever the ids.
    __device__ __forceinline__ void resolve(const GroupedArgs& args) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            if (high_[i] != 0 || static_cast<unsigned>(low_[i]) >= static_cast<unsigned>(args.num_experts))
                low_[i] = -1;
        if (args.expert_map != nullptr) {
#pragma unroll
            for (int i = 0; i < kCount; ++i)
                if (low_[i] >= 0) low_[i] = args.expert_map[low_[i]];
        } else {
#pragma unroll
            for (int i = 0; i < kCount; ++i) low_[i] -= args.first_expert;  // also of -1
        }
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            if (static_cast<unsigned>(low_[i]) >= static_cast<unsigned>(args.local_experts)) low_[i] = -1;
    }
    [[nodiscard]] __device__ __forceinline__ int expert(int i) const { return low_[i]; }

  private:
    template <class Id, bool Waits>
    __device__ __forceinline__ void load_from(const GroupedArgs& args, std::int64_t first, int route, int end) {
        const Id* const ids = static_cast<const Id*>(args.ids.data);
        if (args.ids.stride == args.top_k) {
            const Id* const from = ids + first * args.top_k + route;
            if constexpr (Waits) asm volatile("griddepcontrol.wait;" ::: "memory");
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                low_[i] = -1;
                if (route + i * 32 < end) take(i, from[i * 32]);
            }
        } else {
            if constexpr (Waits) asm volatile("griddepcontrol.wait;" ::: "memory");
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const int at = route + i * 32;
                const int token = quotient(at, args.by_top_k);
                low_[i] = -1;
                if (at < end) take(i, ids[(first + token) * args.ids.stride + at - token * args.top_k]);
            }
        }
    }
    __device__ __forceinline__ void take(int i, int id) { low_[i] = id; }
    __device__ __forceinline__ void take(int i, int2 id) {
        low_[i] = id.x;
        high_[i] = id.y;
    }

    int low_[kCount];  ///< -1: none
    int high_[kCount] = {};
};

/// Counts the routes of each expert for `count` tokens from `first` on, and ranks them. `ids`: of the lane's first
/// routes, asked for before. By all threads; returns how many of the warp's routes have an expert here.
template <class Shape>
__device__ __forceinline__ int count_routes(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                            std::int64_t first, int routes, SomeIds& ids) {
    constexpr int warps = Shape::kThreads / 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int experts = args.local_experts;
    const ListScratch scratch(memory, experts, warps, routes);
    const WarpRoutes own(routes, warps);
    std::uint16_t* const counts = scratch.before + warp * experts;
    for (int expert = lane; expert < experts; expert += 32) counts[expert] = 0;
    int found = 0;
#pragma unroll 1
    for (int begin = own.begin; begin < own.end; begin += SomeIds::kCount * 32) {
        if (begin != own.begin) ids.load<false>(args, first, begin + lane, own.end);
        ids.resolve(args);
#pragma unroll
        for (int i = 0; i < SomeIds::kCount; ++i) {
            const int route = begin + i * 32 + lane;
            const int expert = ids.expert(i);
            if (route < own.end) lists.route_expert[route] = static_cast<std::int16_t>(expert);
            const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, expert >= 0);
            if (expert >= 0)
                scratch.live[own.begin + found + __popc(live & ((1U << lane) - 1U))] =
                    static_cast<std::uint16_t>(route);
            found += __popc(live);
        }
    }
    __syncwarp();
    rank_routes(lists, scratch.live + own.begin, scratch.ranks + own.begin, counts, found);
    __syncthreads();
    for (int expert = static_cast<int>(threadIdx.x); expert < experts; expert += Shape::kThreads) {
        int of_warp[warps];
#pragma unroll
        for (int i = 0; i < warps; ++i) of_warp[i] = scratch.before[i * experts + expert];
        int sum = 0;
#pragma unroll
        for (int i = 0; i < warps; ++i) {
            scratch.before[i * experts + expert] = static_cast<std::uint16_t>(sum);
            sum += of_warp[i];
        }
        scratch.begins[expert] = sum;
    }
    __syncthreads();
    return found;
}

/// Once place_experts has been there: fills the list. By all threads, each warp with the routes that it found; complete
/// after the CTA's next barrier.
template <class Shape>
__device__ __forceinline__ void list_routes(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                            int routes, int found) {
    constexpr int warps = Shape::kThreads / 32;
    const int experts = args.local_experts;
    const ListScratch scratch(memory, experts, warps, routes);
    const WarpRoutes own(routes, warps);
    const std::uint16_t* const before = scratch.before + static_cast<int>(threadIdx.x) / 32 * experts;
#pragma unroll 1
    for (int i = own.begin + static_cast<int>(threadIdx.x) % 32; i < own.begin + found; i += 32) {
        const std::uint16_t route = scratch.live[i];
        const int expert = lists.route_expert[route];
        lists.list[scratch.begins[expert] + before[expert] + scratch.ranks[i]] = route;
    }
}

}  // namespace tokamak::moe::cuda
