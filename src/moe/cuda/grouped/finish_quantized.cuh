// SPDX-License-Identifier: Apache-2.0
// The end of a gate/up unit where the next phase takes e4m3: its strips are the 128 columns of a group of the
// intermediate, so its consumers find the group's scale and leave codes.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/grouped/finish.cuh"
#include "moe/cuda/grouped/prepare.cuh"
#include "moe/cuda/grouped/unit_scratch.cuh"

namespace tokamak::moe::cuda {

/// Groups of 128 columns.
__device__ __forceinline__ int quantized_groups(int cols) { return (cols + 127) / 128; }

/// Sums become values of the intermediate, in sums[..][..][0 and 1]; columns beyond the last are zeros. All values
/// first: a condition around each would make a lane's values follow one another.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void activate_sums(const GroupedArgs& args, const int (&cols)[Strips],
                                              const LaneRows<Shape> (&rows)[Strips], float (&sums)[Strips][Blocks][4]) {
    const UnitActivation activation(args.activation);
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        const float low = rows[i].low.value();
        const float high = rows[i].high.value();
#pragma unroll
        for (int n = 0; n < Blocks; ++n)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd)
                sums[i][n][odd] = activation(sums[i][n][odd] + low, sums[i][n][odd + 2] + high);
    }
#pragma unroll
    for (int i = 0; i < Strips; ++i) {
        if (cols[i] < args.down.cols) continue;
#pragma unroll
        for (int n = 0; n < Blocks; ++n) sums[i][n][0] = sums[i][n][1] = 0.0F;
    }
}

/// Largest magnitude of each row over the unit's columns that this warp holds, into `largest`.
template <int Strips, int Blocks>
__device__ __forceinline__ void find_largest(std::uint32_t* largest, int lane,
                                             const float (&values)[Strips][Blocks][4]) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            float most = 0.0F;
#pragma unroll
            for (int i = 0; i < Strips; ++i) most = tokamak::cuda::larger_magnitude(most, values[i][n][odd]);
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2)
                most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, distance));
            if (lane < 4) atomicMax(largest + n * 8 + lane * 2 + odd, __float_as_uint(most));
        }
}

/// Codes of the lane's values, in the place of sums[..][..][2 and 3], and the scales of its rows.
template <int Strips, int Blocks>
__device__ __forceinline__ void encode(const std::uint32_t* largest, int lane, float (&sums)[Strips][Blocks][4],
                                       float (&scales)[Blocks][2]) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const auto scale = tokamak::cuda::E4m3Scale::of(__uint_as_float(largest[n * 8 + lane % 4 * 2 + odd]));
            scales[n][odd] = scale.scale;
#pragma unroll
            for (int i = 0; i < Strips; ++i)
                sums[i][n][odd + 2] = __uint_as_float(tokamak::cuda::e4m3_codes(scale.divide(sums[i][n][odd]), 0.0F));
        }
}

/// Codes by all lanes, scales by one warp; what is stored has been found before, as in activate_sums.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void store_codes(const GroupedArgs& args, const UnitRoutes<Shape>& routes, const Unit& unit,
                                            const Consumer& me, const std::uint32_t* largest,
                                            float (&sums)[Strips][Blocks][4]) {
    const int groups = quantized_groups(args.down.cols);
    const int group = unit.strip / Shape::kStepStrips;
    const int inside = me.slab * 8 + me.lane / 4;
    auto* const codes = static_cast<std::uint8_t*>(args.intermediate);
    int found[Blocks][2];
    float scales[Blocks][2];
    find_routes<Shape>(routes, unit.tile.rows, me.lane, found);
    encode(largest, me.lane, sums, scales);
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            if (n * 8 + me.lane % 4 * 2 + odd >= unit.tile.rows) continue;
            const std::int64_t at = static_cast<std::int64_t>(found[n][odd]) * groups + group;
            std::uint8_t* const to = codes + at * kPreparedGroup + inside;
#pragma unroll
            for (int i = 0; i < Strips; ++i)
                to[(me.warpgroup + i * Shape::kWarpgroups) * 32] =
                    static_cast<std::uint8_t>(__float_as_uint(sums[i][n][odd + 2]));
            if (me.warpgroup == 0 && inside == 0) args.intermediate_scales[at] = scales[n][odd];
        }
}

template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void finish_quantized(const GroupedArgs& args, const UnitRoutes<Shape>& routes,
                                                 const Unit& unit, const Consumer& me,
                                                 const LaneRows<Shape> (&rows)[Strips],
                                                 float (&sums)[Strips][Blocks][4], UnitScratch<Shape>& scratch) {
    int cols[Strips];
#pragma unroll
    for (int i = 0; i < Strips; ++i)
        cols[i] = me.warpgroup + i * Shape::kWarpgroups < unit.strips
                      ? (unit.strip + me.warpgroup + i * Shape::kWarpgroups) * 32 + me.slab * 8 + me.lane / 4
                      : args.down.cols;  // no such strip: zeros
    activate_sums(args, cols, rows, sums);
    find_largest(scratch.maxima(), me.lane, sums);
    scratch.sync();
    store_codes<Shape>(args, routes, unit, me, scratch.maxima(), sums);
}

}  // namespace tokamak::moe::cuda
