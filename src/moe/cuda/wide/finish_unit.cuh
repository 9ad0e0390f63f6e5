// SPDX-License-Identifier: Apache-2.0
// The end of a unit for the strips of one warpgroup: what was not told of the unit before
// is told, sums become results, what is to be told of these is kept.
#pragma once

#include "moe/cuda/wide/finish_parts.cuh"
#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/scatter.cuh"

namespace tokamak::moe::cuda {

/// Biases and routes are asked for before what the warp had not told of the unit before is told, where registers allow.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_wide_gate_up(const WideArgs& args, const WideUnit& unit, int first, int last,
                                                    const WideConsumer& me, std::uint8_t* patch,
                                                    float (&sums)[Strips][Eights][4]) {
    constexpr bool ahead = Shape::kWholeStages;
    WideLaneRows<Shape, false> rows[Strips];
#pragma unroll
    for (int i = 0; ahead && i < Strips; ++i)
        if (first + i < last) rows[i].load(args, unit.expert, unit.strip + first + i, me);
    WidePending::tell(args, patch, me.lane, args.tile_parts);
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        if (first + i >= last) break;
        if (!ahead) rows[i].load(args, unit.expert, unit.strip + first + i, me);
        finish_gate_up<Shape>(args, unit, unit.strip + first + i, me, patch, rows[i], sums[i]);
    }
    WidePending::put(patch, me.lane, unit.tile, max(0, min(first + Strips, last) - first), unit.strips * 4);
}

/// Results that are added, in bf16, or of tiles of many rows.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_wide_other(const WideArgs& args, const WideUnit& unit, int first, int last,
                                                  const WideConsumer& me, std::uint8_t* patch,
                                                  const float (&sums)[Strips][Eights][4]) {
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        if (first + i >= last) break;
        const int strip = unit.strip + first + i;
        if (Shape::atomic(args))
            finish_down_scatter<Shape>(args, unit, strip, me, patch, sums[i]);
        else if constexpr (Shape::kHalfResults) {
            WideRoutes<Eights> routes;
            routes.template ask<false>(args, unit, me.lane);
            finish_down_half<Shape>(args, unit, strip, me, patch, routes, sums[i]);
        } else
            finish_down_row<Shape>(args, unit, strip, me, sums[i]);
    }
}

template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_wide_down(const WideArgs& args, const WideUnit& unit, int first, int last,
                                                 const WideConsumer& me, std::uint8_t* patch,
                                                 const float (&sums)[Strips][Eights][4]) {
    if (Shape::kHalfResults || !Shape::kWholeStages || Shape::atomic(args)) {
        WidePending::tell(args, patch, me.lane, args.expert_results);
        finish_wide_other<Shape>(args, unit, first, last, me, patch, sums);
    } else {
        WideLaneRows<Shape, true> rows[Strips];
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            if (first + i < last) rows[i].load(args, unit.expert, unit.strip + first + i, me);
        const WideRowRoutes<Eights> routes(args, unit, me.lane);
        WidePending::tell(args, patch, me.lane, args.expert_results);
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            if (first + i < last) finish_down<Shape>(args, unit.strip + first + i, me, routes, rows[i], sums[i]);
    }
    if (!Shape::atomic(args) && wide_overlaps<false>(args))
        WidePending::put(patch, me.lane, unit.expert, max(0, min(first + Strips, last) - first) * 2, unit.strips * 8);
}

/// The end of a unit that needs nothing from global memory.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_brought(const WideArgs& args, const WideUnit& unit, bool down,
                                               const WideRange& strips, const WideConsumer& me, std::uint8_t* patch,
                                               float (&sums)[Strips][Eights][4]) {
    const auto& end = WideUnitEnd<Shape>::of(args, WidePending::of(patch).turn);
    const int count = strips.last - strips.first;
    WidePending::tell(args, patch, me.lane, down ? args.expert_results : args.tile_parts);
    if (down) {
        finish_brought_down<Shape>(args, unit.strip + strips.first, count, end, strips.first, me, sums);
        if (wide_overlaps<false>(args)) WidePending::put(patch, me.lane, unit.expert, count * 2, unit.strips * 8);
        return;
    }
#pragma unroll
    for (int i = 0; i < Strips; ++i)
        if (i < count)
            finish_brought_gate_up<Shape>(args, unit, unit.strip + strips.first + i, me, patch,
                                          WideBroughtRows<Shape>(end, strips.first + i, me), sums[i]);
    WidePending::put(patch, me.lane, unit.tile, count, unit.strips * 4);
}

/// Results of quantised rows.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void finish_wide_strips(const WideArgs& args, const WideUnit& unit, int first, int last,
                                                   const WideConsumer& me, std::uint8_t* patch,
                                                   const WideRoutes<Eights>& routes,
                                                   const float (&sums)[Strips][Eights][4]) {
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        if (first + i >= last) break;
        finish_down_half<Shape>(args, unit, unit.strip + first + i, me, patch, routes, sums[i]);
    }
}

}  // namespace tokamak::moe::cuda
