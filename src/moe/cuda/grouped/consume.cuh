// SPDX-License-Identifier: Apache-2.0
// The consumers of a CTA: multiply the units of both phases and finish them.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/finish_quantized.cuh"
#include "moe/cuda/grouped/multiply_ahead.cuh"
#include "moe/cuda/grouped/multiply_converted.cuh"
#include "moe/cuda/grouped/multiply_e4m3.cuh"
#include "moe/cuda/grouped/multiply_warpgroup.cuh"
#include "moe/cuda/tile_rows.cuh"

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
    const UnitRoutes<Shape> routes{lists.list + unit.tile.first, Shape::kGridLists ? scratch.routes() : nullptr};
    if constexpr (!Down && Shape::kRowScales)
        return finish_quantized<Shape>(args, routes, unit, me, rows, sums, scratch);
    if constexpr (Shape::kGridLists) scratch.sync();
    finish_unit<Down, Shape, Strips, Blocks>(args, routes, unit, me, rows, sums);
}

/// The same by wgmma: both phases in one piece of code, because ptxas serialises the matrix instructions of a kernel
/// that has many of them.
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
    const int blocks = (down ? args.down : args.gate_up).tiles * Shape::Weights::kTileBlocks;
    ConvertedStages<Shape> stages(ring, place, me);
    multiply_converted(stages, blocks, sums);
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
    const int rows = unit.tile.rows;
    static_assert(Shape::kTileRows == 48);
    if (rows <= 32)
        consume_converted<Shape, 4>(args, lists, unit, down, me, ring, place);
    else if (rows <= 40)
        consume_converted<Shape, 5>(args, lists, unit, down, me, ring, place);
    else
        consume_converted<Shape, 6>(args, lists, unit, down, me, ring, place);
}

/// By the consumers of the grid: rows of tokens without a result here.
template <class Shape>
__device__ __forceinline__ void clear_rows(const GroupedArgs& args, const RowLists& lists, std::int64_t first,
                                           int count) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int token = static_cast<int>(blockIdx.x); token < count; token += static_cast<int>(gridDim.x)) {
        const bool some = lane < args.top_k && lists.route_expert[token * args.top_k + lane] >= 0;
        if (__any_sync(0xFFFFFFFFU, some)) continue;
        auto* const row =
            reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(args.out) + (first + token) * args.out_stride);
        for (int i = static_cast<int>(threadIdx.x); i < args.gate_up.cols / 8; i += Shape::kConsumerWarps * 32)
            row[i] = {};
    }
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

/// A unit of either phase in one piece of code: a CTA has a dozen units and meets every instruction first in a cold
/// cache.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void consume_dealt(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                              bool down, const Consumer& me, const StageRing<Shape>& ring,
                                              RingPlace& place) {
    LaneRows<Shape> rows[Strips];
#pragma unroll
    for (int i = 0; i < Strips; ++i)
        rows[i].load(args, down, unit.tile.expert, unit.strip + me.warpgroup + i * Shape::kWarpgroups, me);
    float sums[Strips][Blocks][4] = {};
    const int blocks = (down ? args.down : args.gate_up).tiles * Shape::Weights::kTileBlocks;
    if constexpr (Strips == 2 && Blocks > Shape::Weights::kMmaEights)
        multiply_by_warpgroup<Shape>(ring, place, me, blocks, sums);
    else
        multiply_ahead<Shape>(ring, place, me, blocks, sums);
    const UnitRoutes<Shape> routes{lists.list + unit.tile.first, nullptr};
    if (down)
        finish_unit<true, Shape, Strips, Blocks>(args, routes, unit, me, rows, sums);
    else
        finish_unit<false, Shape, Strips, Blocks>(args, routes, unit, me, rows, sums);
}

template <class Shape, int Strips>
__device__ __forceinline__ void consume_dealt_width(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                                    bool down, const Consumer& me, const StageRing<Shape>& ring,
                                                    RingPlace& place) {
    const int width = unit.width();
    if (width == 8)
        consume_dealt<Shape, Strips, 1>(args, lists, unit, down, me, ring, place);
    else if (width == 16)
        consume_dealt<Shape, Strips, 2>(args, lists, unit, down, me, ring, place);
    else if (width == 24)
        consume_dealt<Shape, Strips, 3>(args, lists, unit, down, me, ring, place);
    else
        consume_dealt<Shape, Strips, 4>(args, lists, unit, down, me, ring, place);
}

/// Of shapes whose units are dealt. Units are counted by the gathering warps where these are long enough, but the last
/// one of a phase here: what comes behind it may wait for it.
template <class Shape>
__device__ __forceinline__ void consume_both_phases(const GroupedArgs& args, const RowLists& lists, const Consumer& me,
                                                    const StageRing<Shape>& ring, RingPlace& place,
                                                    UnitScratch<Shape>& scratch, int& turn) {
#pragma unroll 1
    for (int phase = 0; phase < 2; ++phase) {
        const bool down = phase == 1;
        const DecodeMatrix& matrix = down ? args.down : args.gate_up;
        RoleWalk<Shape> walk(lists, args, down, turn);
        Unit unit;
        const bool lazily = counts_lazily<Shape>(args, down);
        int last = -1;
        while (walk.next(unit)) {
            const int mine = (unit.strips - me.warpgroup + Shape::kWarpgroups - 1) / Shape::kWarpgroups;
            if (mine <= 0)
                skip_unit(matrix, me, ring, place);
            else if constexpr (Shape::kConverted)
                consume_converted_width(args, lists, unit, down, me, ring, place);
            else if (mine == 1)
                consume_dealt_width<Shape, 1>(args, lists, unit, down, me, ring, place);
            else
                consume_dealt_width<Shape, 2>(args, lists, unit, down, me, ring, place);
            __syncwarp();  // what its lanes have stored comes before what one of them arrives at
            if (lazily)
                last = unit.index;
            else if (!down)
                publish_unit<Shape>(args, unit, scratch);
        }
        if (last >= 0) publish_unit<Shape>(args, {.index = last}, scratch);
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

}  // namespace tokamak::moe::cuda
