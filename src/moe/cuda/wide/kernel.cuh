// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for many tokens in one cooperative launch of one CTA per SM: rows are gathered per expert and
// multiplied by wgmma, weights as its first operand, up to 160 rows as its second (docs/kernels/moe_wide.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <new>

#include "moe/cuda/wide/combine.cuh"
#include "moe/cuda/wide/finish_tall.cuh"
#include "moe/cuda/wide/multiply_e4m3.cuh"
#include "moe/cuda/wide/quantize.cuh"
#include "moe/cuda/wide/scatter.cuh"

namespace tokamak::moe::cuda {

template <class Shape>
__device__ __forceinline__ WideGroupScratch<Shape::kMostRows>& group_scratch(const WideArgs& args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    static_assert(sizeof(WideGroupScratch<Shape::kMostRows>) == Shape::kMostRows * kWideGroupRowBytes);
    return *reinterpret_cast<WideGroupScratch<Shape::kMostRows>*>(shared + args.lists.group);
}

/// Multiplies the strips of a unit from `first` on and finishes them. A warpgroup with fewer strips than it could have
/// multiplies what lies in the place of the others too.
template <class Shape, int Eights>
__device__ __forceinline__ void consume_wide_unit(const WideArgs& args, const WideUnit& unit, bool down, int first,
                                                  int last, const WideConsumer& me, WideStages<Shape>& stages) {
    constexpr int Strips = Shape::kStripsEach;
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    float sums[Strips][Eights][4] = {};
    if constexpr (Shape::kQuantized)
        multiply_unit_e4m3<Shape>(stages, me, first, matrix.tiles, unit.rows, sums);
    else if constexpr (Shape::Weights::kFromShared)
        multiply_unit_shared<Shape>(stages, first, Shape::chunks(matrix), sums);
    else
        multiply_unit_registers<Shape>(stages, first, matrix.tiles * Shape::Weights::kTileBlocks, me, sums);
    if constexpr (Shape::kQuantized)
        if (!down) return finish_wide_group<Shape>(args, unit, me, stages.patch, group_scratch<Shape>(args), sums);
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        if (first + i >= last) break;
        const int strip = unit.strip + first + i;
        if (down && Shape::atomic(args))
            finish_down_scatter<Shape>(args, unit, strip, me, stages.patch, sums[i]);
        else if constexpr (Shape::kQuantized)
            finish_down_half<Shape>(args, unit, strip, me, stages.patch, sums[i]);
        else if (down)
            finish_down<Shape>(args, unit, strip, me, sums[i]);
        else
            finish_gate_up<Shape>(args, unit, strip, me, stages.patch, sums[i]);
    }
    if (Shape::kQuantized || down) return;
    ptx::fence_all_async();
    __syncwarp();
    if (me.lane != 0) return;
    for (int strip = first; strip < min(first + Strips, last); ++strip) TileCounts{args.tile_parts}.add(unit.tile);
}

/// The same with rows as the first operand.
template <class Shape>
__device__ __forceinline__ void consume_tall_unit(const WideArgs& args, const WideUnit& unit, bool down,
                                                  const WideConsumer& me, WideStages<Shape>& stages) {
    WideTallSums sums[2] = {};
    multiply_unit_tall<Shape>(stages, me, Shape::chunks(down ? args.down : args.gate_up), unit.rows, sums);
    if (down)
        finish_tall_down<Shape>(args, unit, me, sums);
    else
        finish_tall_group<Shape>(args, unit, me, sums);
}

template <class Shape, int Width = Shape::kLeastRows>
__device__ __forceinline__ void consume_wide_width(const WideArgs& args, const WideUnit& unit, bool down, int first,
                                                   int last, const WideConsumer& me, WideStages<Shape>& stages) {
    if constexpr (Width < Shape::kNarrowRows) {
        if (unit.rows > Width)
            return consume_wide_width<Shape, Width + Shape::kStepRows>(args, unit, down, first, last, me, stages);
    } else if constexpr (Shape::kQuantized) {
        if (unit.rows > Width) return consume_tall_unit<Shape>(args, unit, down, me, stages);
    }
    consume_wide_unit<Shape, Width / 8>(args, unit, down, first, last, me, stages);
}

/// The turn that a consumer warp is at, in shared memory: its registers are for sums and operands.
__device__ __forceinline__ int next_wide_turn(std::uint8_t* patch, int lane) {
    auto& turn = *reinterpret_cast<int*>(patch + kWideTurnBytes);
    const int next = turn + 1;
    __syncwarp();
    if (lane == 0) turn = next;
    return next;
}

template <class Shape>
__device__ __forceinline__ void consume_wide_phase(const WideArgs& args, const WideDeals& deals, bool down,
                                                   const WideConsumer& me, WideStages<Shape>& stages) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    while (const WideUnit* const next = deals.await(next_wide_turn(stages.patch, me.lane))) {
        const WideUnit& unit = *next;
        __syncwarp();
        // Those of a group finish it together.
        const int strips = Shape::kQuantized && !down ? Shape::kStrips : unit.strips;
        const int each = (strips + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
        const int first = me.warpgroup * each;
        if ((Shape::kQuantized && unit.strips > 0) || first < unit.strips)  // warpgroups that take turns have as many
            consume_wide_width<Shape>(args, unit, down, first, min(first + each, unit.strips), me, stages);
        else
            stages.skip(Shape::chunks(matrix));
    }
}

/// The feeding warps: copies of weights, copies of rows; the others clear.
template <class Shape>
__device__ __forceinline__ void feed_wide(const WideArgs& args, const WideTables& tables, const WideDeals& deals,
                                          const StageRing<Shape>& ring, int warp, int count) {
    RingPlace place;
    int turn = 0;
    if (warp == 0) {
        copy_wide_weights<Shape>(ring, place, tables, deals, turn, args.gate_up, false);
        copy_wide_weights<Shape>(ring, place, tables, deals, turn, args.down, true);
    } else if (warp == 1) {
        ptx::fence_all_async();
        for (int phase = 0; phase < 2; ++phase)
            if constexpr (Shape::kQuantized)
                copy_wide_codes<Shape>(ring, place, deals, turn, args, phase == 1);
            else
                copy_wide_rows<Shape>(ring, place, deals, turn, args, phase == 1);
    } else if (warp >= 2 && Shape::atomic(args)) {
        WideClear(args).run(count, warp - 2);
    }
    __syncwarp();
    if (!Shape::atomic(args)) cooperative_groups::this_grid().sync();
}

__device__ __forceinline__ int pass_count(const WideArgs& args) {
    const std::int64_t left = live_tokens(args.tokens, args.num_tokens) - args.first_token;
    return left >= args.pass_tokens ? args.pass_tokens : left > 0 ? static_cast<int>(left) : 0;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) moe_wide(const __grid_constant__ WideArgs args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const StageRing<Shape> ring(shared, args);
    const WideTables tables(shared, args, Shape::kQuantized ? Shape::kMostRows : Shape::kStepRows,
                            Shape::kQuantized ? Shape::kNarrowRows : 0);
    const WideDeals deals{shared + args.lists.deals};
    const int count = pass_count(args);
    if (count == 0) return;
    const WidePair pair;
    if (threadIdx.x == 0) ring.initialise(pair.size);
    TileCounts{args.dealt}.clear(kWideCounters);
    build_wide_lists<Shape>(args, tables, shared, count);
    ptx::fence_shared_async();  // the ring takes its place back
    grid.sync();
    deals.clear();
    TileCounts{args.tile_parts}.clear(tables.facts->tiles);
    if constexpr (Shape::kQuantized) {
        group_scratch<Shape>(args).clear();
        WideQuantize(args, tables, wide_x_rows<Shape>(args)).run(count);
    } else {
        WidePrepare(args, tables, wide_x_rows<Shape>(args)).run(count);
    }
    ptx::fence_all_async();
    grid.sync();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp >= Shape::kConsumerWarps) {
        ptx::set_registers<Shape::kThreads, Shape::kProducerRegisters>();
        feed_wide<Shape>(args, tables, deals, ring, warp - Shape::kConsumerWarps, count);
    } else {
        ptx::set_registers<Shape::kThreads, Shape::kConsumerRegisters>();
        const WideConsumer me(warp);
        RingPlace place;
        WideStages<Shape> stages{
            ring, place, me.lane, shared + args.lists.patches + warp * kWidePatchBytes,
            me.lane < pair.size ? ptx::address_in(static_cast<std::uint32_t>(pair.rank ^ me.lane), ring.empty) : 0};
        if (Shape::kQuantized && me.warpgroup == 1) WideTurns::begin();
        if (me.lane == 0) *reinterpret_cast<int*>(stages.patch + kWideTurnBytes) = 0;
        __syncwarp();
        consume_wide_phase<Shape>(args, deals, false, me, stages);
        if (Shape::atomic(args)) WideClear::await(args);
        consume_wide_phase<Shape>(args, deals, true, me, stages);
        if (!Shape::atomic(args)) {
            grid.sync();
            WideCombine<Shape::kQuantized>(args).run(count, Shape::kConsumerWarps);
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
            Shape::kPairs};
}

}  // namespace tokamak::moe::cuda
