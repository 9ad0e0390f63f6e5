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
    UnitDeals deals;

    __device__ RowLists(std::uint8_t* shared, const GroupedArgs& args)
        : counts(reinterpret_cast<int*>(shared + args.lists.counts)),
          list(reinterpret_cast<std::uint16_t*>(shared + args.lists.list)),
          grid_list(args.grid_list),
          tiles(reinterpret_cast<RowTile*>(shared + args.lists.tiles)),
          route_expert(reinterpret_cast<std::int16_t*>(shared + args.lists.route_expert)),
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
    /// Units that are asked for: row tiles with units(true) in the down phase, and units of each of the others.
    [[nodiscard]] __device__ int coarse_tiles() const { return counts[5]; }
    [[nodiscard]] __device__ int fine_units() const { return counts[6]; }
};

/// Working space of build_lists, in the place of the ring.
struct ListScratch {
    int* begins;            ///< [local experts]: first place of an expert in the list
    std::uint16_t* before;  ///< [warps, local experts]: routes of a warp's share, then those of the warps before it
    std::uint16_t* ranks;   ///< [routes]: among the expert's routes of the same warp

    __device__ ListScratch(std::uint8_t* memory, int experts, int warps)
        : begins(reinterpret_cast<int*>(memory)),
          before(reinterpret_cast<std::uint16_t*>(begins + experts)),
          ranks(before + warps * experts) {}
};

__device__ __forceinline__ std::int64_t load_id(const DecodeRows& ids, std::int64_t token, int slot) {
    const std::int64_t at = token * ids.stride + slot;
    return ids.dtype == DType::i64 ? static_cast<const std::int64_t*>(ids.data)[at]
                                   : static_cast<const std::int32_t*>(ids.data)[at];
}

/// Each warp numbers the routes of its own run of the pass, expert by expert, in order.
__device__ __forceinline__ void rank_routes(const RowLists& lists, const ListScratch& scratch, int routes, int experts,
                                            int share) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    std::uint16_t* const counts = scratch.before + warp * experts;
    const int end = min(routes, (warp + 1) * share);
    for (int first = warp * share; first < end; first += 32) {
        const int route = first + lane;
        const int expert = route < end ? lists.route_expert[route] : -1;
        const std::uint32_t same = __match_any_sync(0xFFFFFFFFU, expert);
        const int old = expert >= 0 ? counts[expert] : 0;
        __syncwarp();
        if (expert >= 0) {
            scratch.ranks[route] = static_cast<std::uint16_t>(old + __popc(same & ((1U << lane) - 1U)));
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
    int cost_before = 0;
    int several = 0;
    for (int first = 0; first < experts; first += 32) {
        const int expert = first + lane;
        const int rows = expert < experts ? begins[expert] : 0;
        const int tiles = (rows + most - 1) / most;
        const int each = Shape::kGridLists && tiles > 1 ? ((rows + tiles - 1) / tiles + 7) / 8 * 8 : most;
        const int cost = tiles * kStripCost;
        int row_sum = rows;
        int tile_sum = tiles;
        int cost_sum = cost;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int other_rows = __shfl_up_sync(0xFFFFFFFFU, row_sum, distance);
            const int other_tiles = __shfl_up_sync(0xFFFFFFFFU, tile_sum, distance);
            const int other_cost = __shfl_up_sync(0xFFFFFFFFU, cost_sum, distance);
            if (lane >= distance) {
                row_sum += other_rows;
                tile_sum += other_tiles;
                cost_sum += other_cost;
            }
        }
        const int begin = rows_before + row_sum - rows;
        if (expert < experts) begins[expert] = begin;
        for (int tile = 0; tile < tiles; ++tile)
            lists.tiles[tiles_before + tile_sum - tiles + tile] = {
                begin + tile * each,
                static_cast<std::int16_t>(expert),
                static_cast<std::int16_t>(min(each, rows - tile * each)),
                static_cast<std::int16_t>(tile),
                static_cast<std::int16_t>(tiles),
                cost_before + cost_sum - cost + tile * kStripCost};
        several |= tiles > 1 ? 1 : 0;
        rows_before += __shfl_sync(0xFFFFFFFFU, row_sum, 31);
        tiles_before += __shfl_sync(0xFFFFFFFFU, tile_sum, 31);
        cost_before += __shfl_sync(0xFFFFFFFFU, cost_sum, 31);
    }
    several = __any_sync(0xFFFFFFFFU, several) ? 1 : 0;
    if (lane == 0) {
        lists.counts[0] = several;
        lists.counts[1] = tiles_before;
        lists.counts[4] = cost_before;
    }
}

/// Ids of every `step`-th route of a pass, on their way together: nothing stands between the loads, and what they
/// bring is looked at when it is needed.
class SomeIds {
  public:
    static constexpr int kCount = 8;

    /// From `route` on, the last one's beyond the end. The pass has routes.
    __device__ __forceinline__ void load(const GroupedArgs& args, std::int64_t first, int routes, int route, int step) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int at = min(route + i * step, routes - 1);
            const int token = quotient(at, args.by_top_k);
            const std::int64_t from = (first + token) * args.ids.stride + at - token * args.top_k;
            if (args.ids.dtype == DType::i64)
                wide_[i] = static_cast<const std::int64_t*>(args.ids.data)[from];
            else
                narrow_[i] = static_cast<const std::int32_t*>(args.ids.data)[from];
        }
    }
    [[nodiscard]] __device__ __forceinline__ std::int64_t id(const GroupedArgs& args, int i) const {
        return args.ids.dtype == DType::i64 ? wide_[i] : narrow_[i];
    }

  private:
    std::int64_t wide_[kCount] = {};
    std::int32_t narrow_[kCount] = {};
};

/// Fills the lists for `count` tokens from `first` on. `ids`: those of routes threadIdx.x, + blockDim.x, ..., asked for
/// before. Call by all threads; complete after the CTA's next barrier.
template <class Shape>
__device__ __forceinline__ void build_lists(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                            std::int64_t first, int count, SomeIds& ids) {
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    const int warps = threads / 32;
    const int experts = args.local_experts;
    const int routes = count * args.top_k;
    const int share = (routes + warps - 1) / warps;
    const ListScratch scratch(memory, experts, warps);
    for (int i = thread; i < warps * experts; i += threads) scratch.before[i] = 0;
    for (int begin = thread; begin < routes; begin += SomeIds::kCount * threads) {
        if (begin != thread) ids.load(args, first, routes, begin, threads);
#pragma unroll
        for (int i = 0; i < SomeIds::kCount; ++i)
            if (begin + i * threads < routes)
                lists.route_expert[begin + i * threads] =
                    static_cast<std::int16_t>(local_expert(args, ids.id(args, i)));
    }
    __syncthreads();
    rank_routes(lists, scratch, routes, experts, share);
    __syncthreads();
    for (int expert = thread; expert < experts; expert += threads) {
        int sum = 0;
        for (int warp = 0; warp < warps; ++warp) {
            const int own = scratch.before[warp * experts + expert];
            scratch.before[warp * experts + expert] = static_cast<std::uint16_t>(sum);
            sum += own;
        }
        scratch.begins[expert] = sum;
    }
    __syncthreads();
    if (thread < 32) place_experts<Shape>(lists, scratch.begins, experts);
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const int expert = lists.route_expert[route];
        if (expert < 0) continue;
        const int before = scratch.before[route / share * experts + expert];
        lists.list[scratch.begins[expert] + before + scratch.ranks[route]] = static_cast<std::uint16_t>(route);
    }
}

}  // namespace tokamak::moe::cuda
