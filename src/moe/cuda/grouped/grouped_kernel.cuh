// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for more than a few tokens in one cooperative launch of one CTA per SM: rows are gathered per
// expert, so that an expert's weights are read once for all its rows (docs/kernels/moe_grouped.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <utility>

#include "moe/cuda/grouped/combine.cuh"
#include "moe/cuda/grouped/finish_quantized.cuh"
#include "moe/cuda/grouped/grid_lists.cuh"
#include "moe/cuda/grouped/multiply_ahead.cuh"
#include "moe/cuda/grouped/multiply_converted.cuh"
#include "moe/cuda/grouped/multiply_e4m3.cuh"
#include "moe/cuda/grouped/row_gather.cuh"

namespace tokamak::moe::cuda {

/// Multiplies the strips of a unit that belong to a warp, and finishes them.
template <bool Down, class Shape, int Strips, int Blocks>
__device__ __forceinline__ void consume_unit(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                             const Consumer& me, const StageRing<Shape>& ring, RingPlace& place,
                                             UnitScratch<Shape>& scratch) {
    constexpr int stage_blocks = Shape::Weights::kStageBlocks;
    const DecodeMatrix& matrix = Down ? args.down : args.gate_up;
    LaneRows<Shape> rows[Strips];
#pragma unroll
    for (int i = 0; i < Strips; ++i)
        rows[i].load(args, Down, unit.tile.expert, unit.strip + me.warpgroup + i * Shape::kWarpgroups, me);
    if constexpr (Shape::kGridLists) scratch.copy_routes(lists, unit);
    float sums[Strips][Blocks][4] = {};
    const int blocks = matrix.tiles * Shape::Weights::kTileBlocks;
    if constexpr (Shape::Weights::kLoadsAhead) {
        multiply_ahead<Shape>(ring, place, me, blocks, sums);
    } else {
        for (int chunk = 0; chunk * stage_blocks < blocks; ++chunk) {
            ptx::barrier_wait(&ring.full[place.slot], place.parity);
            if constexpr (Shape::kRowScales)
                multiply_e4m3<Shape>(ring.stage(place.slot), me, chunk, sums);
            else
                multiply_stage<Shape>(ring.stage(place.slot), me, chunk, blocks - chunk * stage_blocks, sums);
            __syncwarp();
            if (me.lane == 0) ptx::barrier_arrive(&ring.empty[place.slot]);
            place.advance(ring.stages);
        }
    }
    const UnitRoutes<Shape> routes{lists.list + unit.tile.first, Shape::kGridLists ? scratch.routes() : nullptr};
    if constexpr (!Down && Shape::kRowScales)
        return finish_quantized<Shape>(args, routes, unit, me, rows, sums, scratch);
    if constexpr (Shape::kGridLists) scratch.sync();
    finish_unit<Down, Shape, Strips, Blocks>(args, routes, unit, me, rows, sums);
}

/// The same for weights that are converted: both phases in one piece of code, because ptxas serialises the matrix
/// instructions of a kernel that has many of them.
template <class Shape, int Eights>
__device__ __forceinline__ void consume_converted(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                                  bool down, const Consumer& me, const StageRing<Shape>& ring,
                                                  RingPlace& place) {
    constexpr int strips = Shape::kStripsEach;
    LaneRows<Shape> rows[strips];
#pragma unroll
    for (int i = 0; i < strips; ++i)
        rows[i].load(args, down, unit.tile.expert, unit.strip + me.warpgroup + i * Shape::kWarpgroups, me);
    float sums[strips][Eights][4] = {};
    ConvertedStages<Shape> stages(ring, place, me);
    multiply_converted(stages, (down ? args.down : args.gate_up).tiles * Shape::Weights::kTileBlocks, sums);
    const UnitRoutes<Shape> routes{lists.list + unit.tile.first, nullptr};
    if (down)
        finish_unit<true, Shape, strips, Eights>(args, routes, unit, me, rows, sums);
    else
        finish_unit<false, Shape, strips, Eights>(args, routes, unit, me, rows, sums);
}

template <class Shape>
__device__ __forceinline__ void consume_converted_width(const GroupedArgs& args, const RowLists& lists,
                                                        const Unit& unit, bool down, const Consumer& me,
                                                        const StageRing<Shape>& ring, RingPlace& place) {
    static_assert(Shape::kTileRows == 48);
    if (unit.tile.rows <= 32)
        consume_converted<Shape, 4>(args, lists, unit, down, me, ring, place);
    else if (unit.tile.rows <= 40)
        consume_converted<Shape, 5>(args, lists, unit, down, me, ring, place);
    else
        consume_converted<Shape, 6>(args, lists, unit, down, me, ring, place);
}

/// A warp without a strip in the unit lets its stages pass.
template <class Shape>
__device__ __forceinline__ void skip_unit(const DecodeMatrix& matrix, const Consumer& me, const StageRing<Shape>& ring,
                                          RingPlace& place) {
    for (int chunk = Shape::chunks(matrix); chunk > 0; --chunk) {
        ptx::barrier_wait(&ring.full[place.slot], place.parity);
        __syncwarp();
        if (me.lane == 0) ptx::barrier_arrive(&ring.empty[place.slot]);
        place.advance(ring.stages);
    }
}

template <bool Down, class Shape, int Strips>
__device__ __forceinline__ void consume_width(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                              const Consumer& me, const StageRing<Shape>& ring, RingPlace& place,
                                              UnitScratch<Shape>& scratch) {
    const int width = unit.width();
    if constexpr (Shape::kGridLists) {
        if (width <= 32)
            consume_unit<Down, Shape, Strips, 4>(args, lists, unit, me, ring, place, scratch);
        else if (width <= 64)
            consume_unit<Down, Shape, Strips, 8>(args, lists, unit, me, ring, place, scratch);
        else
            consume_unit<Down, Shape, Strips, 12>(args, lists, unit, me, ring, place, scratch);
    } else if (width == 8)
        consume_unit<Down, Shape, Strips, 1>(args, lists, unit, me, ring, place, scratch);
    else if (width == 16)
        consume_unit<Down, Shape, Strips, 2>(args, lists, unit, me, ring, place, scratch);
    else if (width == 24)
        consume_unit<Down, Shape, Strips, 3>(args, lists, unit, me, ring, place, scratch);
    else if (Shape::kTileRows == 32 || width == 32)
        consume_unit<Down, Shape, Strips, 4>(args, lists, unit, me, ring, place, scratch);
    else if constexpr (Shape::kTileRows == 64) {
        if (width <= 48)
            consume_unit<Down, Shape, Strips, 6>(args, lists, unit, me, ring, place, scratch);
        else
            consume_unit<Down, Shape, Strips, 8>(args, lists, unit, me, ring, place, scratch);
    }
}

/// The unit's rows of the intermediate are complete. By all consumers, also those without a strip.
template <class Shape>
__device__ __forceinline__ void publish_unit(const GroupedArgs& args, const Unit& unit,
                                             const UnitScratch<Shape>& scratch) {
    scratch.sync();
    if (threadIdx.x == 0) TileCounts{args.tile_units}.add(unit.index);
    if constexpr (Shape::kRowScales) scratch.clear_maxima();
}

template <class Shape>
__device__ void consume_converted_phases(const GroupedArgs& args, const RowLists& lists, const Consumer& me,
                                         const StageRing<Shape>& ring, RingPlace& place,
                                         const UnitScratch<Shape>& scratch, int& turn) {
#pragma unroll 1
    for (int phase = 0; phase < 2; ++phase) {
        const bool down = phase == 1;
        RoleWalk<Shape> walk(lists, args, down, turn);
        Unit unit;
        while (walk.next(unit)) {
            if (me.warpgroup < unit.strips)
                consume_converted_width(args, lists, unit, down, me, ring, place);
            else
                skip_unit(down ? args.down : args.gate_up, me, ring, place);
            if (!down) publish_unit<Shape>(args, unit, scratch);
        }
    }
}

template <bool Down, class Shape>
__device__ __forceinline__ void consume_phase(const GroupedArgs& args, const RowLists& lists, const Consumer& me,
                                              const StageRing<Shape>& ring, RingPlace& place,
                                              UnitScratch<Shape>& scratch, int& turn) {
    RoleWalk<Shape> walk(lists, args, Down, turn);
    Unit unit;
    while (walk.next(unit)) {
        const int mine = (unit.strips - me.warpgroup + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
        if constexpr (Shape::kRowScales)
            consume_width<Down, Shape, Shape::kStripsEach>(args, lists, unit, me, ring, place, scratch);
        else if (mine <= 0)
            skip_unit(Down ? args.down : args.gate_up, me, ring, place);
        else if (mine == 1)
            consume_width<Down, Shape, 1>(args, lists, unit, me, ring, place, scratch);
        else if constexpr (Shape::kStripsEach == 2)
            consume_width<Down, Shape, 2>(args, lists, unit, me, ring, place, scratch);
        if constexpr (!Down && Shape::kAnnounces) publish_unit<Shape>(args, unit, scratch);
        scratch.next();
    }
}

__device__ __forceinline__ std::int64_t tokens_of_call(const GroupedArgs& args) {
    if (args.num_tokens == nullptr) return args.tokens;
    return max(std::int64_t{0}, min(args.tokens, static_cast<std::int64_t>(*args.num_tokens)));
}

__device__ __forceinline__ RowSource token_rows(const GroupedArgs& args, std::int64_t first) {
    return {.data = args.x,
            .stride = args.x_stride,
            .routes_per_row = args.top_k,
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
    return {.data = rows, .stride = cols, .routes_per_row = source.prepared_per(), .cols = cols, .scales = scales};
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
                                             const StageRing<Shape>& ring, RingPlace& place, int warp, int& turn,
                                             UnitDealer* dealer, unsigned& cleared) {
    WeightStream<Shape> gate_up(lists, args, false, warp, turn, dealer);
    WeightStream<Shape> down(lists, args, true, warp, turn, dealer);
    if constexpr (Shape::kDealt) {
        constexpr int early = 2;  // stages, without asking for a unit
        if (Shape::chunks(args.gate_up) >= early + kAskAhead) gate_up.issue(ring, place, early);
        await_cleared<Shape>(cleared);
        gate_up.issue(ring, place);
        down.issue(ring, place);  // once: it leaves the turn that ends the pass
    } else {
        ptx::named_barrier(kRowsAhead, (Shape::kWeightWarps + kGatherWarps) * 32);
        gate_up.issue(ring, place);
        down.issue(ring, place, ring.stages);
        between_phases<Shape>();
        down.issue(ring, place);
    }
}

/// The feeding warps: copies of weights, gathering of rows.
template <class Shape>
__device__ __forceinline__ void feed(const GroupedArgs& args, const RowLists& lists, const StageRing<Shape>& ring,
                                     RingPlace& place, std::int64_t first, int warp, int& turn, unsigned& cleared) {
    if (warp < Shape::kWeightWarps) {
        if constexpr (Shape::kDealt) {
            if (warp == 0) {
                UnitDealer dealer(lists, args, turn);
                return feed_weights<Shape>(args, lists, ring, place, warp, turn, &dealer, cleared);
            }
        }
        feed_weights<Shape>(args, lists, ring, place, warp, turn, nullptr, cleared);
    } else {
        const int thread = (warp - Shape::kWeightWarps) * 32 + static_cast<int>(threadIdx.x) % 32;
        const RowSource tokens = token_rows(args, first);
        const RowSource x = !Shape::kPrepares
                                ? tokens
                                : prepared_rows<Shape::Weights::kForm>(tokens, args.prepared_rows, args.row_scales);
        RowGather<Shape>(lists, args, false, x, thread).run(ring, place, turn, cleared);
        between_phases<Shape>();
        const RowSource rows = down_rows<Shape>(args);
        RowGather<Shape>(lists, args, true, rows, thread).run(ring, place, turn, cleared);
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
                                          RingPlace& place, std::int64_t first, int& turn, unsigned cleared) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp >= Shape::kConsumerWarps)
        return feed(args, lists, ring, place, first, warp - Shape::kConsumerWarps, turn, cleared);
    const Consumer me(warp);
    await_cleared<Shape>(cleared);
    UnitScratch<Shape> scratch{ring.memory, args};
    if constexpr (Shape::kConverted) {
        consume_converted_phases(args, lists, me, ring, place, scratch, turn);
    } else {
        consume_phase<false>(args, lists, me, ring, place, scratch, turn);
        between_phases<Shape>();
        consume_phase<true>(args, lists, me, ring, place, scratch, turn);
    }
}

template <class Shape>
__device__ __forceinline__ void number_units(const GroupedArgs& args, const RowLists& lists) {
    if (threadIdx.x == 0) lists.counts[kCombineCounter] = 0;
    if constexpr (!Shape::kDealt)
        place_units<Shape>(args, lists);
    else if (threadIdx.x == 0)
        place_dealt_units(args, lists);
}

/// All that stands before the first unit of a pass: prepared rows, lists, units. Rows that need no lists come first, so
/// that their barrier of the grid is over when the lists are built. Where CTAs ask for units, what is returned is to be
/// waited for: nothing that the barrier clears is needed before the first copies.
template <class Shape>
__device__ __forceinline__ unsigned prepare_tables(const GroupedArgs& args, const RowLists& lists, std::uint8_t* memory,
                                                   std::int64_t first, int count) {
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
    SomeIds ids;
    if (thread < count * args.top_k) ids.load(args, first, count * args.top_k, thread, static_cast<int>(blockDim.x));
    prepare_pass<Shape>(args, first, count);
    unsigned cleared = 0;
    if constexpr (Shape::kPrepares || Shape::kAnnounces)
        cleared = grid.barrier_arrive();  // also: the lists of the last pass have been read
    else
        __syncthreads();
    build_lists<Shape>(args, lists, memory, first, count, ids);
    if (thread < 32) number_units<Shape>(args, lists);
    ptx::fence_shared_async();
    if constexpr (Shape::kDealt || !(Shape::kPrepares || Shape::kAnnounces))
        __syncthreads();
    else
        grid.barrier_wait(std::move(cleared));
    return cleared;
}

template <class Shape>
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
        unsigned cleared = prepare_tables<Shape>(args, lists, shared, first, count);
        run_gemms(args, lists, ring, place, first, turn, cleared);
        CombineWork<Shape> work(args, lists, first, count);  // what it needs comes while others end
        grid.sync();
        work.run();
        if constexpr (Shape::kGridLists) return;  // the host launches again
    }
}

template <class Shape>
constexpr auto units_choice() -> int (*)(int, int) {
    if constexpr (Shape::kDealt)
        return &fewest_cycles_units<Shape>;
    else
        return nullptr;
}

template <class Shape>
GroupedInstance grouped_instance(const char* name) {
    return {reinterpret_cast<const void*>(&moe_grouped<Shape>),
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
