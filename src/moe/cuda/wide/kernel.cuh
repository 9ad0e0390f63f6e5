// SPDX-License-Identifier: Apache-2.0
// The whole MoE layer for many tokens in one cooperative launch of one CTA per SM: rows are gathered per expert and
// multiplied by wgmma, weights as its first operand, up to 128 rows as its second (docs/kernels/moe_wide.md).
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <new>

#include "moe/cuda/wide/combine.cuh"
#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/multiply_e4m3.cuh"
#include "moe/cuda/wide/quantize.cuh"

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
        if (first + i >= last) return;
        if constexpr (Shape::kQuantized)
            finish_down_half<Shape>(args, unit, unit.strip + first + i, me, stages.patch, sums[i]);
        else if (down)
            finish_down<Shape>(args, unit, unit.strip + first + i, me, sums[i]);
        else
            finish_gate_up<Shape>(args, unit, unit.strip + first + i, me, stages.patch, sums[i]);
    }
}

template <class Shape, int Width = Shape::kLeastRows>
__device__ __forceinline__ void consume_wide_width(const WideArgs& args, const WideUnit& unit, bool down, int first,
                                                   int last, const WideConsumer& me, WideStages<Shape>& stages) {
    if constexpr (Width < Shape::kMostRows)
        if (unit.rows > Width)
            return consume_wide_width<Shape, Width + Shape::kStepRows>(args, unit, down, first, last, me, stages);
    consume_wide_unit<Shape, Width / 8>(args, unit, down, first, last, me, stages);
}

/// A consumer warp's place in the order of work, in shared memory: its registers are for sums and operands.
template <class Shape>
struct WideOrder {
    WideWalk<Shape> walk;
    WideUnit unit;
    bool more;

    __device__ __forceinline__ bool next(int lane) {
        __syncwarp();
        if (lane == 0) more = walk.next(unit);
        __syncwarp();
        return more;
    }
};

template <class Shape>
__device__ __forceinline__ void consume_wide_phase(const WideArgs& args, const WideTables& tables, bool down,
                                                   const WideConsumer& me, WideStages<Shape>& stages) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    static_assert(sizeof(WideOrder<Shape>) <= kWidePatchBytes - kWideTurnBytes);
    auto& order = *reinterpret_cast<WideOrder<Shape>*>(stages.patch + kWideTurnBytes);
    if (me.lane == 0) new (&order) WideOrder<Shape>{WideWalk<Shape>(tables, matrix, down), {}, false};
    while (order.next(me.lane)) {
        const WideUnit& unit = order.unit;
        // Those of a group finish it together.
        const int strips = Shape::kQuantized && !down ? Shape::kStrips : unit.strips;
        const int each = (strips + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
        const int first = me.warpgroup * each;
        if (Shape::kQuantized || first < unit.strips) {  // warpgroups that take turns have as many
            consume_wide_width<Shape>(args, unit, down, first, min(first + each, unit.strips), me, stages);
            continue;
        }
        for (int chunk = Shape::chunks(matrix); chunk > 0; --chunk) {
            stages.await();
            stages.release(stages.advance());
        }
    }
}

/// The feeding warps: copies of weights, copies of rows. Those of weights run ahead of the grid's barrier.
template <class Shape>
__device__ __forceinline__ void feed_wide(const WideArgs& args, const WideTables& tables, const StageRing<Shape>& ring,
                                          int warp) {
    const auto grid = cooperative_groups::this_grid();
    const bool leader = threadIdx.x % 32 == 0;
    RingPlace place;
    if (warp == 0) {
        constexpr int unlimited = 0x7FFFFFFF;
        WideWeightStream<Shape> down(tables, args.down, true);
        if (leader) {
            WideWeightStream<Shape> gate_up(tables, args.gate_up, false);
            gate_up.issue(ring, place, unlimited);
            down.issue(ring, place, ring.stages);
        }
        __syncwarp();
        grid.sync();
        if (leader) down.issue(ring, place, unlimited);
        __syncwarp();
        grid.sync();
        return;
    }
    const bool copies = warp == 1 && leader;
    if (copies) {
        ptx::fence_all_async();
        copy_wide_rows<Shape>(ring, place, tables, args.gate_up, args.partials, false);
    }
    __syncwarp();
    grid.sync();
    if (copies) {
        ptx::fence_all_async();
        copy_wide_rows<Shape>(ring, place, tables, args.down, args.intermediate, true);
    }
    __syncwarp();
    grid.sync();
}

/// The same for quantised rows, which need no barrier between the phases.
template <class Shape>
__device__ __forceinline__ void feed_wide_codes(const WideArgs& args, const WideTables& tables,
                                                const StageRing<Shape>& ring, int warp) {
    const bool leader = threadIdx.x % 32 == 0;
    RingPlace place;
    if (warp == 0 && leader) {
        constexpr int unlimited = 0x7FFFFFFF;
        WideWeightStream<Shape>(tables, args.gate_up, false).issue(ring, place, unlimited);
        WideWeightStream<Shape>(tables, args.down, true).issue(ring, place, unlimited);
    } else if (warp == 1 && leader) {
        ptx::fence_all_async();
        copy_wide_codes<Shape>(ring, place, tables, args, false);
        copy_wide_codes<Shape>(ring, place, tables, args, true);
    }
    __syncwarp();
    cooperative_groups::this_grid().sync();
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
    const WideTables tables(shared, args, Shape::kStepRows);
    const int count = pass_count(args);
    if (count == 0) return;
    if (threadIdx.x == 0) ring.initialise();
    build_wide_lists<Shape>(args, tables, shared, count);
    ptx::fence_shared_async();  // the ring takes its place back
    grid.sync();
    if constexpr (Shape::kQuantized) {
        group_scratch<Shape>(args).clear();
        TileCounts{args.tile_groups}.clear(tables.facts->tiles);
        WideQuantize(args, tables).run(count);
    } else {
        WidePrepare(args, tables).run();
    }
    ptx::fence_all_async();
    grid.sync();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp >= Shape::kConsumerWarps) {
        ptx::set_registers<Shape::kThreads, Shape::kProducerRegisters>();
        if constexpr (Shape::kQuantized)
            feed_wide_codes<Shape>(args, tables, ring, warp - Shape::kConsumerWarps);
        else
            feed_wide<Shape>(args, tables, ring, warp - Shape::kConsumerWarps);
    } else {
        ptx::set_registers<Shape::kThreads, Shape::kConsumerRegisters>();
        const WideConsumer me(warp);
        RingPlace place;
        WideStages<Shape> stages{ring, place, me.lane, shared + args.lists.patches + warp * kWidePatchBytes};
        if (Shape::kQuantized && me.warpgroup == 1) WideTurns::begin();
        consume_wide_phase<Shape>(args, tables, false, me, stages);
        if constexpr (!Shape::kQuantized) {
            ptx::fence_all_async();
            grid.sync();
        }
        consume_wide_phase<Shape>(args, tables, true, me, stages);
        grid.sync();
        WideCombine<Shape::kQuantized>(args).run(count, Shape::kConsumerWarps);
    }
}

template <class Shape>
WideInstance wide_instance(const char* name) {
    return {reinterpret_cast<const void*>(&moe_wide<Shape>),
            name,
            Shape::kThreads,
            Shape::kStageBytes,
            Shape::kMostRows,
            Shape::kQuantized};
}

}  // namespace tokamak::moe::cuda
