// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums where rows are quantised. Gate/up: its four strips are 128 columns of the intermediate,
// whose scales the consumers find together. Down: rows of results in bf16, which is finer than what the codes leave.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/finish.cuh"

namespace tokamak::moe::cuda {

/// WideActivation with the exponential and the division of the hardware: what comes out becomes e4m3.
struct WideQuickActivation : WideActivation {
    using WideActivation::WideActivation;

    [[nodiscard]] __device__ __forceinline__ float operator()(float gate, float up) const {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up;
        up = up < -limit ? -limit : up;
        const float sigmoid = __fdividef(1.0F, 1.0F + __expf(-alpha * gate));
        return (up + offset) * (sigmoid == 0.0F ? 0.0F : gate * sigmoid);
    }
};

/// What the consumers of a CTA share about the rows of a unit. `largest` is zero between units.
template <int Rows>
struct WideGroupScratch {
    std::uint32_t largest[Rows];  ///< magnitude, bits of f32
    float2 scales[Rows];          ///< inverse and divisor of an E4m3Scale

    __device__ void clear() {
        for (int row = static_cast<int>(threadIdx.x); row < Rows; row += static_cast<int>(blockDim.x)) largest[row] = 0;
    }
};

/// Largest magnitude of each row over the columns that this warp holds.
template <int Rows, int Eights>
__device__ __forceinline__ void find_wide_largest(WideGroupScratch<Rows>& scratch, int lane,
                                                  const float (&values)[2][Eights][4]) {
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            float most = tokamak::cuda::larger_magnitude(fabsf(values[0][n][odd]), values[1][n][odd]);
            most = fmaxf(most, 0.0F);  // not a number
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2)
                most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, distance));
            if (lane < 4) atomicMax(&scratch.largest[n * 8 + lane * 2 + odd], __float_as_uint(most));
        }
}

/// Scales of all rows, by a thread each; clears what they were found by.
template <int Rows>
__device__ __forceinline__ void make_wide_scales(WideGroupScratch<Rows>& scratch, const WideTileCodes& to, int group) {
    const int row = static_cast<int>(threadIdx.x);
    if (row >= Rows) return;
    const auto scale = tokamak::cuda::E4m3Scale::of(__uint_as_float(scratch.largest[row]));
    scratch.largest[row] = 0;
    scratch.scales[row] = {scale.inverse, scale.divisor};
    if (row < to.rows) *to.scale(row, group) = scale.scale;
}

/// Code of a value by the inverse and the divisor of its scale, as the low byte; that of another one above it.
__device__ __forceinline__ std::uint32_t wide_codes(float low, float high, float inverse, float divisor) {
    const tokamak::cuda::E4m3Scale scale{0.0F, inverse, divisor};
    return tokamak::cuda::e4m3_codes(scale.divide(low), scale.divide(high));
}

/// The codes of the warp's eight columns of each strip, 32 rows at a time turned by way of `patch`: the codes of a row
/// in both strips travel as one number of 16 bits.
template <int Rows, int Eights>
__device__ __forceinline__ void store_wide_codes(const WideGroupScratch<Rows>& scratch, const WideTileCodes& to,
                                                 int group, const WideConsumer& me, std::uint8_t* patch,
                                                 const float (&values)[2][Eights][4]) {
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const auto* const scales = reinterpret_cast<const float4*>(scratch.scales) + me.lane % 4;
#pragma unroll
    for (int four = 0; four < Eights; four += 4) {
        std::uint32_t pairs[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = four + i;
            if (n >= Eights) break;
            const float4 by = scales[n * 4];
            pairs[i] = wide_codes(values[0][n][0], values[1][n][0], by.x, by.y) |
                       wide_codes(values[0][n][1], values[1][n][1], by.z, by.w) << 16;
        }
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        const uint4 both = *reinterpret_cast<const uint4*>(patch + me.lane * 16);
        const int row = four * 8 + me.lane;
        if (row >= to.rows) continue;
        const int eight = me.warpgroup * 8 + me.slab;
        *to.codes(row, group, eight) = {__byte_perm(both.x, both.y, 0x6420), __byte_perm(both.z, both.w, 0x6420)};
        *to.codes(row, group, eight + 4) = {__byte_perm(both.x, both.y, 0x7531), __byte_perm(both.z, both.w, 0x7531)};
    }
}

/// By all consumers of the CTA, also those without a strip. Columns behind the last are zeros.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_wide_group(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                  std::uint8_t* patch, WideGroupScratch<Shape::kMostRows>& scratch,
                                                  float (&sums)[2][Eights][4]) {
    const WideQuickActivation activation(args.activation);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int strip = unit.strip + me.warpgroup * 2 + i;
        WideLaneRows<Shape, false> rows;
        rows.load(args, unit.expert, strip, me);
        const float low = rows.low.value();
        const float high = rows.high.value();
#pragma unroll
        for (int n = 0; n < Eights; ++n)  // without a branch around an activation: with one they follow each other
#pragma unroll
            for (int odd = 0; odd < 2; ++odd)
                sums[i][n][odd] = activation(sums[i][n][odd] + low, sums[i][n][odd + 2] + high);
        if (strip * 32 + me.slab * 8 + me.lane / 4 < args.down.cols) continue;
#pragma unroll
        for (int n = 0; n < Eights; ++n) sums[i][n][0] = sums[i][n][1] = 0.0F;
    }
    constexpr int consumers = Shape::kConsumerWarps * 32;
    const int group = unit.strip / Shape::kGroupStrips;
    const WideTileCodes to(args.intermediate, unit.first, unit.rows, args.down.padded_cols / 128);
    find_wide_largest(scratch, me.lane, sums);
    ptx::named_barrier(1, consumers);
    make_wide_scales(scratch, to, group);
    ptx::named_barrier(1, consumers);
    store_wide_codes(scratch, to, group, me, patch, sums);
    ptx::fence_all_async();
    ptx::named_barrier(1, consumers);
    if (threadIdx.x == 0) TileCounts{args.tile_parts}.add(unit.tile);
}

/// 16 rows at a time turned by way of `patch`: two lanes store the 16 columns that a warp has of
/// one.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_down_half(const WideArgs& args, const WideUnit& unit, int strip,
                                                 const WideConsumer& me, std::uint8_t* patch,
                                                 const float (&sums)[Eights][4]) {
    WideLaneRows<Shape, true> rows;
    rows.load(args, unit.expert, strip, me);
    int routes[(Eights + 3) / 4];  // of rows `lane` of each 32; asked for together
#pragma unroll
    for (int i = 0; i < (Eights + 3) / 4; ++i) {
        const int row = i * 32 + me.lane;
        routes[i] = row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
    }
    const float low = rows.low.value();
    const float high = rows.high.value();
    const int half = me.lane % 2;
    const int col = strip * 64 + me.slab * 16 + half * 8;
    const std::int64_t stride = wide_result_stride(args, true);
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const std::uint8_t* const turned = patch + ((me.lane / 16 * 2 + half) * 8 + me.lane / 2 % 8) * 16;
#pragma unroll
    for (int n = 0; n < Eights; n += 2) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float(&s)[4] = sums[n + i / 2];
            const float scale = i % 2 == 0 ? rows.scale_low : rows.scale_high;
            const float bias = i % 2 == 0 ? low : high;
            const __nv_bfloat162 pair =
                __floats2bfloat162_rn(fmaf(s[i % 2 * 2], scale, bias), fmaf(s[i % 2 * 2 + 1], scale, bias));
            pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        const int route = __shfl_sync(0xFFFFFFFFU, routes[n / 4], n % 4 * 8 + me.lane / 2);
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        if (route >= 0)
            store_turned(reinterpret_cast<std::uint8_t*>(args.partials) + (route * stride + col) * 2,
                         args.gate_up.cols - col, turned);
    }
}

}  // namespace tokamak::moe::cuda
