// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for many tokens in one cooperative launch of one CTA per SM: rows are gathered per expert and
// multiplied by wgmma, weights as its first operand, up to 160 rows as its second (docs/kernels/moe_wide.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <new>

#include "moe/cuda/wide/beside_conversion.cuh"
#include "moe/cuda/wide/combine_tokens.cuh"
#include "moe/cuda/wide/convert.cuh"
#include "moe/cuda/wide/copy_parts.cuh"
#include "moe/cuda/wide/early_combine.cuh"
#include "moe/cuda/wide/finish_rounded.cuh"
#include "moe/cuda/wide/finish_tall.cuh"
#include "moe/cuda/wide/finish_unit.cuh"
#include "moe/cuda/wide/late_combine.cuh"
#include "moe/cuda/wide/multiply_e4m3.cuh"
#include "moe/cuda/wide/multiply_parts.cuh"
#include "moe/cuda/wide/row_scales.cuh"

namespace tokamak::moe::cuda {

/// Where a consumer warp turns sums.
__device__ __forceinline__ std::uint8_t* wide_patch(const WideArgs& args, const WideConsumer& me) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    return shared + args.lists.patches + (me.warpgroup * 4 + me.slab) * kWidePatchBytes;
}

/// The way of a consumer warp through the ring.
template <class Shape>
__device__ __forceinline__ WideStages<Shape> consumer_stages(const WideArgs& args, const StageRing<Shape>& ring,
                                                             RingPlace& place, const WideConsumer& me) {
    const WidePair pair;
    return {ring, place, me.lane, wide_patch(args, me),
            me.lane < pair.size ? ptx::address_in(static_cast<std::uint32_t>(pair.rank ^ me.lane), ring.empty) : 0};
}

/// Multiplies the strips of a unit from `first` on and finishes them. A warpgroup with fewer strips than it could have
/// multiplies what lies in the place of the others too.
template <class Shape, int Eights>
__device__ __forceinline__ void consume_wide_unit(const WideArgs& args, const WideUnit& unit, bool down, int first,
                                                  int last, const WideConsumer& me, WideStages<Shape>& stages) {
    constexpr int Strips = Shape::kStripsEach;
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    float sums[Strips][Eights][4] = {};
    [[maybe_unused]] WideRoutes<Eights> routes;
    if constexpr (Shape::kQuantized)
        if (down) routes.template ask<true>(args, unit, me.lane);
    if constexpr (Shape::kQuantized)
        multiply_unit_e4m3<Shape>(stages, first, matrix.tiles, unit.rows, sums);
    else if constexpr (Shape::Weights::kFromShared)
        multiply_unit_shared<Shape>(stages, first, Shape::chunks(matrix), sums);
    else if constexpr (Shape::kParts)
        multiply_unit_parts<Shape>(stages, first, matrix.tiles * Shape::Weights::kTileBlocks, me, sums);
    else if constexpr (Shape::kWholeStages)
        multiply_unit_stages<Shape>(stages, first, matrix.tiles * Shape::Weights::kTileBlocks, me, sums);
    else if constexpr (Strips == 2)
        multiply_unit_registers<Shape>(stages, first, matrix.tiles * Shape::Weights::kTileBlocks, me, sums);
    if constexpr (Shape::kConverted) scale_strip_sums(wide_row_scales(args, stages.patch), first, me, sums);
    if constexpr (Shape::kQuantized) {
        if (down) return finish_wide_strips<Shape>(args, unit, first, last, me, stages.patch, routes, sums);
        auto& scratch = group_scratch<Shape>(args);
        finish_wide_group<Shape>(args, unit, 0, me, stages.patch, scratch, sums);
        WideTelling<Shape>{args, scratch}.finished(unit, me.lane, stages.patch);
    } else {
        const WideConsumer own = Shape::kFindsPlace ? WideConsumer::anew() : me;
        const WideRange strips = Shape::kFindsPlace ? warpgroup_strips<Shape>(unit, own) : WideRange{first, last};
        std::uint8_t* const patch = Shape::kFindsPlace ? wide_patch(args, own) : stages.patch;
        if constexpr (Shape::kBringsEnds)
            finish_brought<Shape>(args, unit, down, strips, own, patch, sums);
        else if (down)
            finish_wide_down<Shape>(args, unit, strips.first, strips.last, own, patch, sums);
        else if constexpr (Shape::kRounded)
            finish_rounded_gate_up<Shape>(args, unit, strips.first, strips.last, own, patch, sums);
        else
            finish_wide_gate_up<Shape>(args, unit, strips.first, strips.last, own, patch, sums);
    }
}

/// Where a main warp turns results of many rows.
template <class Shape>
__device__ __forceinline__ std::uint8_t* tall_patch(const WideArgs& args, const WideConsumer& me) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    return shared + args.lists.early + (me.warpgroup * 4 + me.slab) * kWideTallBytes;
}

/// The same with rows as the first operand; Extra: with rows behind the 128th.
template <class Shape, bool Extra>
__device__ __forceinline__ void consume_tall_unit(const WideArgs& args, const WideUnit& unit, bool down,
                                                  const WideConsumer& me, WideStages<Shape>& stages) {
    WideTallSums sums[2] = {};
    WideExtraSums more = {};
    TallRoutes routes;
    if (down) routes.ask(args, unit, me);
    multiply_unit_tall<Shape, Extra>(stages, me, Shape::chunks(down ? args.down : args.gate_up), unit.rows, sums, more);
    const WideConsumer own = WideConsumer::anew();
    std::uint8_t* const patch = wide_patch(args, own);
    if constexpr (Shape::kConverted) {
        scale_tall_sums(wide_row_scales(args, patch), own, sums);
        if constexpr (Extra) scale_strip_sums(wide_row_scales(args, patch), own.warpgroup * 2, own, more);
    }
    if (down) {
        WideUnit rest = unit;
        rest.first += Shape::kTallRows;
        rest.rows -= Shape::kTallRows;
        [[maybe_unused]] WideRoutes<2> routes_more;
        if constexpr (Extra) routes_more.template ask<true>(args, rest, own.lane);
        finish_tall_down<Shape>(args, unit, own, tall_patch<Shape>(args, own), routes, sums);
        if constexpr (Extra) {
            const int first = own.warpgroup * 2;
            finish_wide_strips<Shape>(args, rest, first, min(first + 2, unit.strips), own, patch, routes_more, more);
        }
    } else {
        auto& scratch = group_scratch<Shape>(args);
        finish_tall_group<Shape>(args, unit, own, patch, sums);
        if constexpr (Extra) finish_wide_group<Shape>(args, unit, Shape::kTallRows, own, patch, scratch, more);
        WideTelling<Shape>{args, scratch}.finished(unit, own.lane, patch);
    }
}

template <class Shape, int Width = Shape::kLeastRows>
__device__ __forceinline__ void consume_wide_width(const WideArgs& args, const WideUnit& unit, bool down, int first,
                                                   int last, const WideConsumer& me, WideStages<Shape>& stages) {
    if constexpr (Width < Shape::kNarrowRows) {
        if (unit.rows > Width)
            return consume_wide_width<Shape, Width + Shape::kStepRows>(args, unit, down, first, last, me, stages);
    } else if constexpr (Shape::kQuantized) {
        if (Shape::kExtraRows > 0 && unit.rows > Shape::kTallRows)
            return consume_tall_unit<Shape, Shape::kExtraRows != 0>(args, unit, down, me, stages);
        if (unit.rows > Width) return consume_tall_unit<Shape, false>(args, unit, down, me, stages);
    }
    consume_wide_unit<Shape, Width / 8>(args, unit, down, first, last, me, stages);
}

template <class Shape>
__device__ __forceinline__ void consume_wide_phase(const WideArgs& args, const WideDeals& deals, bool down,
                                                   const WideConsumer& me, WideStages<Shape>& stages) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    for (;;) {
        const WideConsumer own = Shape::kFindsPlace ? WideConsumer::anew() : me;
        WideStages<Shape> from = Shape::kFindsPlace ? consumer_stages(args, stages.ring, stages.place, own) : stages;
        const int turn = next_wide_turn(from.patch, own.lane);
        const WideUnit* const next = deals.await(turn);
        if (next == nullptr) break;
        const WideUnit& unit = *next;
        __syncwarp();  // those of a group finish it together
        const int strips = Shape::kScaledRows && !down ? Shape::kStrips : unit.strips;
        const int each = warpgroup_share<Shape>(strips);
        const int first = own.warpgroup * each;
        const bool together = Shape::kQuantized ? unit.strips > 0 : Shape::kRounded && !down;
        if (together || first < unit.strips)  // warpgroups that take turns have as many
            consume_wide_width<Shape>(args, unit, down, first, min(first + each, unit.strips), own, from);
        else
            from.skip(Shape::chunks(matrix));
        if constexpr (Shape::kConverted) give_slot_back(args, wide_patch(args, WideConsumer::anew()), down);
    }
    if constexpr (!Shape::kQuantized)
        WidePending::tell(args, stages.patch, me.lane, down ? args.expert_results : args.tile_parts);
}

/// By an idle warp, until two fifths of gate/up's units are dealt: of zeros that are stored later more are still in the
/// L2 when results are added to them. Warps that prepare rows before they clear are late anyway.
__device__ __forceinline__ void await_gate_up(const WideArgs& args, const WideTables& tables) {
    const int enough = tables.facts->tiles * tables.facts->gate_up_units * 2 / 5;
    while (WideCounts{{args.dealt}}.peek(kWideGateUpUnits) < enough) __nanosleep(5000);
}

/// What warps that copy nothing do under the multiplications.
template <class Shape>
__device__ __forceinline__ void idle_wide(const WideArgs& args, const WideTables& tables, std::uint8_t* shared,
                                          int warp, int count) {
    if constexpr (!Shape::kScaledRows)
        WidePrepare(args, tables, wide_x_rows<Shape>(args), Shape::kFirstHalfUnits).run_later(warp);
    if (!Shape::atomic(args)) {
        const WideOwners owners(args, tables);
        if constexpr (Shape::kQuantized)
            owners.collect(warp);
        else
            owners.find(warp);
    }
    if constexpr (Shape::kRounded)
        if (Shape::atomic(args)) await_gate_up(args, tables);
    // Converting weights takes a CTA's time: there others clear.
    if (!Shape::kConverted || wide_works(args))
        WideClear(args).template run<Shape::kQuantized, Shape::kStoresAlone>(
            count, warp, Shape::kConverted ? wide_workers(args) : static_cast<int>(gridDim.x), !Shape::atomic(args));
    WideCleared(args).add();
    if constexpr (Shape::kQuantized) {
        if (warp == 0 && wide_works(args)) WideTelling<Shape>{args, group_scratch<Shape>(args)}.run();
    } else if (!Shape::atomic(args) && wide_overlaps<false>(args)) {
        WideEarlyCombine<Shape::kHalfResults>(args, tables, shared + args.lists.early + warp * kWideEarlyBytes).run();
    }
}

template <class Shape>
__device__ __forceinline__ WideTables wide_tables(std::uint8_t* shared, const WideArgs& args) {
    return {shared, args, Shape::kQuantized ? Shape::kTallRows : Shape::kStepRows,
            Shape::kQuantized ? Shape::kNarrowRows : 0, Shape::kExtraRows};
}

/// The feeding warps: copies of weights, copies of rows; the others have nothing to copy.
template <class Shape>
__device__ __forceinline__ void feed_wide(const WideArgs& args, std::uint8_t* shared, int warp) {
    // Else the address is kept in local memory and read for each stage (WideConsumer::anew).
    if constexpr (Shape::kQuantized) asm volatile("" : "+l"(shared));
    WideFeed<Shape> feed(StageRing<Shape>(shared, args));
    const WideTables tables = wide_tables<Shape>(shared, args);
    const WideDeals deals{shared + args.lists.deals};
    int turn = 0;
    if (warp == 0) {
        if constexpr (Shape::kConverted) {
            const WideSlots slots{shared + args.lists.slots};
            copy_converted_weights<Shape>(feed, tables, deals, turn, args, slots, false);
            copy_converted_weights<Shape>(feed, tables, deals, turn, args, slots, true);
        } else if constexpr (Shape::kParts) {
            WidePartFeed<Shape> part_feed(StageRing<Shape>(shared, args));
            copy_part_weights<Shape>(part_feed, tables, deals, turn, args.gate_up, false);
            copy_part_weights<Shape>(part_feed, tables, deals, turn, args.down, true);
        } else {
            copy_wide_weights<Shape>(feed, tables, deals, turn, args.gate_up, false);
            copy_wide_weights<Shape>(feed, tables, deals, turn, args.down, true);
        }
    } else {
        ptx::fence_all_async();
        if constexpr (Shape::kQuantized) {  // each with its own instructions: a phase in a register takes more of them
            copy_wide_codes<Shape>(feed, deals, turn, args, false);
            copy_wide_codes<Shape>(feed, deals, turn, args, true);
        } else {
            for (int phase = 0; phase < 2; ++phase) copy_wide_rows<Shape>(feed, deals, turn, args, phase == 1);
        }
    }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) moe_wide(const __grid_constant__ WideArgs args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const StageRing<Shape> ring(shared, args);
    const WideTables tables = wide_tables<Shape>(shared, args);
    const WideDeals deals{shared + args.lists.deals};
    const int count = pass_count(args);
    if (count == 0) return;
    const WidePair pair;
    if (threadIdx.x == 0) {
        ptx::barrier_init(&ring.empty[ring.stages], 1);  // of no stage
        ring.initialise(pair.size);
    }
    TileCounts{args.dealt}.clear(kWideCounters);
    build_wide_lists<Shape>(args, tables, shared, count);
    ptx::fence_shared_async();  // the ring takes its place back
    deals.clear();
    if constexpr (Shape::kRounded) round_scratch<Shape>(args).clear();
    if (threadIdx.x < kWideDeals) WidePending::told(shared, args)[threadIdx.x] = 0;
    TileCounts{args.tile_rows}.clear(tables.facts->tiles);
    TileCounts{args.tile_parts}.clear(tables.facts->tiles);
    TileCounts{args.expert_results}.clear(args.local_experts);
    if constexpr (Shape::kConverted) clear_conversions(args);
    grid.sync();
    if constexpr (Shape::kConverted) {
        quantize_beside_conversions(args, tables, group_scratch<Shape>(args), wide_x_rows<Shape>(args));
    } else {
        if constexpr (Shape::kQuantized) {
            group_scratch<Shape>(args).clear();
            quantize_wide_rows(args, tables, wide_x_rows<Shape>(args));
        } else if constexpr (Shape::kRounded) {
            WideTokenRows<true>(args, tables, wide_x_rows<Shape>(args)).run(count);
        } else {
            WidePrepare(args, tables, wide_x_rows<Shape>(args), Shape::kFirstHalfUnits).run_first();
        }
        if (!wide_rows_overlap<Shape>(args)) {
            ptx::fence_all_async();
            grid.sync();
        }
    }
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp >= Shape::kConsumerWarps) {
        ptx::set_registers<Shape::kThreads, Shape::kProducerRegisters>();
        const int feeder = warp - Shape::kConsumerWarps;
        if (feeder < 4 - kWideIdleWarps && !(Shape::kConverted && !wide_works(args)))
            feed_wide<Shape>(args, shared, feeder);
        else if (feeder >= 4 - kWideIdleWarps && wide_rows_are_there<Shape>(args))
            idle_wide<Shape>(args, tables, shared, feeder - (4 - kWideIdleWarps), count);
        __syncwarp();
        if (!Shape::atomic(args) && !wide_overlaps<Shape::kQuantized>(args)) grid.sync();
    } else {
        ptx::set_registers<Shape::kThreads, Shape::kConsumerRegisters>();
        if (!Shape::kConverted || wide_works(args)) {
            const WideConsumer me(warp);
            RingPlace place;
            WideStages<Shape> stages = consumer_stages(args, ring, place, me);
            if (me.lane == 0) WidePending::of(stages.patch) = {};
            __syncwarp();
            consume_wide_phase<Shape>(args, deals, false, me, stages);
            if constexpr (Shape::kQuantized) WideTelling<Shape>{args, group_scratch<Shape>(args)}.over(me.lane);
            if (Shape::atomic(args)) WideCleared(args).await();
            consume_wide_phase<Shape>(args, deals, true, me, stages);
        } else if constexpr (Shape::kConverted) {
            WideConvert(args, tables, shared).run();
        }
        if (!Shape::atomic(args)) {
            if constexpr (Shape::kQuantized) {
                WideCleared(args).await();
                WideTokenCombine combine(args, warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
                                         Shape::kConsumerWarps * static_cast<int>(gridDim.x));
                combine.ask();  // the answers come while others still multiply
                grid.sync();
                combine.run();
            } else {
                if (wide_overlaps<false>(args)) {
                    WideCleared(args).await();
                    WideLateCombine<Shape::kHalfResults>(args, tables).run();
                } else {
                    grid.sync();
                    WideCombine<Shape::kHalfResults> combine(args);
                    combine.ask();
                    combine.run();
                }
            }
        }
    }
    ptx::cluster_arrive_relaxed();  // nobody leaves while the other one still gives stages back here
    ptx::cluster_wait();
}

template <class Shape>
WideInstance wide_instance(const char* name) {
    return {reinterpret_cast<const void*>(&moe_wide<Shape>),
            name,
            Shape::kThreads,
            Shape::kStageBytes,
            Shape::kMostRows,
            Shape::kQuantized,
            Shape::kPairs,
            Shape::kConverted,
            Shape::kBringsEnds ? static_cast<int>(sizeof(WideUnitEnd<Shape>)) : 0,
            Shape::kBlocks * 64};
}

}  // namespace tokamak::moe::cuda
