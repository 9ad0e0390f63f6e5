// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for more than a few tokens in one cooperative launch of one CTA per SM: rows are gathered per
// expert, so that an expert's weights are read once for all its rows (docs/kernels/moe_grouped.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <utility>

#include "moe/cuda/grouped/combine.cuh"
#include "moe/cuda/grouped/consume.cuh"
#include "moe/cuda/grouped/grid_lists.cuh"
#include "moe/cuda/grouped/row_gather.cuh"

namespace tokamak::moe::cuda {

__device__ __forceinline__ std::int64_t tokens_of_call(const GroupedArgs& args) {
    if (args.num_tokens == nullptr) return args.tokens;
    return max(std::int64_t{0}, min(args.tokens, static_cast<std::int64_t>(*args.num_tokens)));
}

__device__ __forceinline__ RowSource token_rows(const GroupedArgs& args, std::int64_t first) {
    return {.data = args.x,
            .stride = args.x_stride,
            .routes_per_row = args.top_k,
            .by_routes = args.by_top_k,
            .cols = args.gate_up.cols,
            .vectors = args.x_vectors,
            .weights = args.input_weights,
            .first_token = first,
            .top_k = args.top_k};
}
/// They are gathered as if they were of 16 bits: quantised rows have half as many.
template <RowForm Form>
__device__ __forceinline__ RowSource prepared_rows(const RowSource& source, const std::uint16_t* rows,
                                                   const float* scales) {
    constexpr int group = Form == RowForm::quantized ? kPreparedGroup / 2 : kPreparedGroup;
    const int cols = (source.cols + kPreparedGroup - 1) / kPreparedGroup * group;
    return {.data = rows,
            .stride = cols,
            .routes_per_row = source.prepared_per(),
            .by_routes = source.weights.data != nullptr ? Divisor() : source.by_routes,
            .cols = cols,
            .scales = scales};
}

/// Rows that the down phase gathers.
template <class Shape>
__device__ __forceinline__ RowSource down_rows(const GroupedArgs& args) {
    constexpr RowForm form = Shape::Weights::kForm;
    const RowSource own = {.data = args.intermediate, .stride = args.intermediate_stride, .cols = args.down.cols};
    if constexpr (Shape::kPrepares)
        return prepared_rows<form>(own, static_cast<const std::uint16_t*>(args.intermediate), args.intermediate_scales);
    else
        return own;
}

/// What stands between the phases, unless tiles tell when their rows are there.
template <class Shape>
__device__ __forceinline__ void between_phases() {
    if constexpr (!Shape::kAnnounces) cooperative_groups::this_grid().sync();
}

/// Every role of a CTA that asks for units, when its first copies are on their way: counts and counter are zero.
template <class Shape>
__device__ __forceinline__ void await_cleared(unsigned& cleared) {
    if constexpr (Shape::kDealt) cooperative_groups::this_grid().barrier_wait(std::move(cleared));
}

template <class Shape>
__device__ __forceinline__ void feed_weights(const GroupedArgs& args, const RowLists& lists,
                                             const StageRing<Shape>& ring, RingPlace& place, int warp, int& turn) {
    WeightStream<Shape> gate_up(lists, args, false, warp, turn, nullptr);
    WeightStream<Shape> down(lists, args, true, warp, turn, nullptr);
    ptx::named_barrier(kRowsAhead, (Shape::kWeightWarps + kGatherWarps) * 32);
    gate_up.issue(ring, place);
    down.issue(ring, place, ring.stages);
    between_phases<Shape>();
    down.issue(ring, place);
}

/// The same where units are asked for: one piece of code for both phases and all warps.
template <class Shape>
__device__ __forceinline__ void feed_dealt_weights(const GroupedArgs& args, const RowLists& lists,
                                                   const StageRing<Shape>& ring, RingPlace& place, int warp, int& turn,
                                                   unsigned& cleared) {
    constexpr int all = 0x7FFFFFFF;
    UnitDealer dealer(lists, args, turn, warp == 0);
#pragma unroll 1
    for (int phase = 0; phase < 2; ++phase) {
        const bool down = phase == 1;
        WeightStream<Shape> weights(lists, args, down, warp, turn, &dealer);
        constexpr int stages = 2;  // without asking for a unit
        int most = down ? all : Shape::chunks(args.gate_up) >= stages + kAskAhead ? stages : 0;
#pragma unroll 1
        for (;; most = all) {
            weights.issue(ring, place, most);
            if (most == all) break;
            await_cleared<Shape>(cleared);
        }
    }
}

/// The feeding warps: copies of weights, gathering of rows.
template <class Shape>
__device__ __forceinline__ void feed(const GroupedArgs& args, const RowLists& lists, const StageRing<Shape>& ring,
                                     RingPlace& place, std::int64_t first, int warp, int& turn, unsigned& cleared) {
    if (warp < Shape::kWeightWarps) {
        if constexpr (Shape::kDealt)
            feed_dealt_weights<Shape>(args, lists, ring, place, warp, turn, cleared);
        else
            feed_weights<Shape>(args, lists, ring, place, warp, turn);
    } else {
        const int thread = (warp - Shape::kWeightWarps) * 32 + static_cast<int>(threadIdx.x) % 32;
        const RowSource tokens = token_rows(args, first);
        const RowSource x = !Shape::kPrepares
                                ? tokens
                                : prepared_rows<Shape::Weights::kForm>(tokens, args.prepared_rows, args.row_scales);
        if constexpr (Shape::kDealt) {
#pragma unroll 1
            for (int phase = 0; phase < 2; ++phase)
                RowGather<Shape>(lists, args, phase == 1, phase == 1 ? down_rows<Shape>(args) : x, thread)
                    .run(ring, place, turn, cleared);
        } else {
            RowGather<Shape>(lists, args, false, x, thread).run(ring, place, turn, cleared);
            between_phases<Shape>();
            RowGather<Shape>(lists, args, true, down_rows<Shape>(args), thread).run(ring, place, turn, cleared);
        }
    }
}

/// Before the lists are built: rows are brought into the form of the format, if it has one, and what the phases expect
/// to be zero is cleared. All of it is complete after the grid's next barrier.
template <class Shape>
__device__ __forceinline__ void prepare_pass(const GroupedArgs& args, std::int64_t first, int count) {
    const int routes = count * args.top_k;
    if constexpr (Shape::kPrepares)
        prepare_rows<Shape::Weights::kForm>(token_rows(args, first), routes, args.prepared_rows, args.row_scales);
    const int thread = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int threads = static_cast<int>(gridDim.x * blockDim.x);
    if constexpr (Shape::kAnnounces) TileCounts{args.tile_units}.clear(routes);
    if (Shape::kDealt && thread == 0) *args.dealt_units = 0;
    if constexpr (Shape::kPrepares && !Shape::kRowScales)
        clear_padding(static_cast<std::uint16_t*>(args.intermediate), routes, args.down.cols, thread, threads);
}

/// Both GEMMs of a pass, by the role of the warp. Every role passes the same barriers of the grid; weights flow into
/// free stages before them. `turn`: of the next unit, where they are asked for; `cleared`: see prepare_tables.
template <class Shape>
__device__ __forceinline__ void run_gemms(const GroupedArgs& args, const RowLists& lists, const StageRing<Shape>& ring,
                                          RingPlace& place, std::int64_t first, int count, int& turn,
                                          unsigned cleared) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp >= Shape::kConsumerWarps)
        return feed(args, lists, ring, place, first, warp - Shape::kConsumerWarps, turn, cleared);
    const Consumer me(warp);
    if constexpr (Shape::kDealt)
        if (args.clears_first) clear_rows<Shape>(args, lists, first, count);
    await_cleared<Shape>(cleared);
    UnitScratch<Shape> scratch{ring.memory, args};
    if constexpr (Shape::kDealt) {
        consume_both_phases(args, lists, me, ring, place, scratch, turn);
    } else {
        consume_phase<false>(args, lists, me, ring, place, scratch, turn);
        between_phases<Shape>();
        consume_phase<true>(args, lists, me, ring, place, scratch, turn);
    }
}

template <class Shape>
__device__ __forceinline__ void number_units(const GroupedArgs& args, const RowLists& lists) {
    if (threadIdx.x == 0) {
        lists.counts[kCombineCounter] = 0;
        if constexpr (Shape::kDealt)
            lists.counts[kCompleteTiles] = combines_early<Shape>(args) ? 0 : lists.tile_count();
    }
    if constexpr (!Shape::kDealt)
        place_units<Shape>(args, lists);
    else if (threadIdx.x == 0)
        place_dealt_units(args, lists);
}

/// All that stands before the first unit of a pass: prepared rows, lists, units. Rows that need no lists come first, so
/// that their barrier of the grid is over when the lists are built. Where CTAs ask for units, what is returned is to be
/// waited for: nothing that the barrier clears is needed before the first copies.
template <class Shape, bool Waits>
__device__ __forceinline__ unsigned prepare_tables(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                                   std::int64_t first, int count, int turn) {
    const auto grid = cooperative_groups::this_grid();
    if constexpr (Shape::kGridLists) {
        count_share(args, memory, first, count);
        prepare_pass<Shape>(args, first, count);
        grid.sync();
        place_shares<Shape>(args, lists, memory, count);
        if (threadIdx.x < 32) number_units<Shape>(args, lists);
        ptx::fence_shared_async();  // the ring takes its place back
        grid.sync();
        return 0;
    }
    const int thread = static_cast<int>(threadIdx.x);
    const int routes = count * args.top_k;
    const WarpRoutes own(routes, Shape::kThreads / 32);
    SomeIds ids;
    ids.load<Waits>(args, first, own.begin + thread % 32, own.end);
    prepare_pass<Shape>(args, first, count);
    unsigned cleared = 0;
    // Also: the lists of the last pass have been read.
    if constexpr (!Shape::kDealt && (Shape::kPrepares || Shape::kAnnounces))
        cleared = grid.barrier_arrive();
    else if (!Shape::kDealt || first != args.first_token)
        __syncthreads();
    const int found = count_routes<Shape>(args, lists, memory, first, routes, ids);
    if (thread < 32) {
        place_experts<Shape>(lists, ListScratch(memory, args.local_experts, Shape::kThreads / 32, routes).begins,
                             args.local_experts);
        __syncwarp();
        number_units<Shape>(args, lists);
    }
    __syncthreads();
    if constexpr (Shape::kDealt)
        if (thread == Shape::kConsumerWarps * 32) deal_unit(args, lists, turn, static_cast<int>(blockIdx.x));
    list_routes<Shape>(args, lists, memory, routes, found);
    ptx::fence_shared_async();
    if constexpr (Shape::kDealt)
        cleared = grid.barrier_arrive();  // here only one warp has to wait for what it costs
    else if constexpr (Shape::kPrepares || Shape::kAnnounces)
        grid.barrier_wait(std::move(cleared));
    else
        __syncthreads();
    return cleared;
}

/// `Waits`: ids may come from a launch that still runs. A kernel of its own, whatever that is: from given ids nvfp4
/// took 0.1 to 1.5% longer with a wait for nothing (docs/kernels/moe_decode_routing.md).
template <class Shape, bool Waits>
__global__ void __launch_bounds__(Shape::kThreads, 1) moe_grouped(const __grid_constant__ GroupedArgs args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const StageRing<Shape> ring(shared, args);
    const RowLists lists(shared, args);
    if (threadIdx.x == 0) ring.initialise();
    if (Shape::kRowScales && threadIdx.x < 2 * Shape::kTileRows)
        UnitScratch<Shape>{shared, args}.maxima()[threadIdx.x] = 0;
    if constexpr (Shape::kDealt) lists.deals.clear();
    RingPlace place;
    int turn = 1;
    const std::int64_t tokens = tokens_of_call(args);
    for (std::int64_t first = args.first_token; first < tokens; first += args.pass_tokens) {
        const int count = static_cast<int>(min(static_cast<std::int64_t>(args.pass_tokens), tokens - first));
        unsigned cleared = prepare_tables<Shape, Waits>(args, lists, shared, first, count, turn);
        run_gemms(args, lists, ring, place, first, count, turn, cleared);
        const bool early = combines_early<Shape>(args);
        if (early && threadIdx.x / 32 == Shape::kConsumerWarps) watch_tiles(args, lists);
        CombineWork<Shape> work(args, lists, first, count);  // what it needs comes while others end
        if (!early) grid.sync();
        work.run();
        if constexpr (Shape::kGridLists) return;                      // the host launches again
        if (early && first + args.pass_tokens < tokens) grid.sync();  // then counts and results may go
    }
}

template <class Shape>
constexpr auto units_choice() -> int (*)(int, int) {
    if constexpr (Shape::kDealt)
        return &fewest_cycles_units<Shape>;
    else
        return nullptr;
}

/// Only where a layer of few tokens is at home, for the rest it does not pay.
template <class Shape>
constexpr const void* waiting_kernel() {
    if constexpr (Shape::kDealt && !Shape::kConverted)
        return reinterpret_cast<const void*>(&moe_grouped<Shape, true>);
    else
        return nullptr;
}

template <class Shape>
GroupedInstance grouped_instance(const char* name) {
    return {reinterpret_cast<const void*>(&moe_grouped<Shape, false>),
            waiting_kernel<Shape>(),
            name,
            Shape::kThreads,
            Shape::kStageBytes,
            Shape::kTileRows,
            Shape::kGridLists,
            Shape::kMostStages,
            Shape::kConverted,
            units_choice<Shape>()};
}

}  // namespace tokamak::moe::cuda
