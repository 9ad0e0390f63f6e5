// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a unit with many e4m3 rows (multiply_tall.cuh): a lane holds rows g and g + 8 of the 16
// of its warp, for each eight of the strips' rows numbers 2t and 2t + 1. A row lies in the four lanes of a quad.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/multiply_tall.cuh"

namespace tokamak::moe::cuda {

/// Row of the tile that a lane's `low` (0) or `high` (1) sums belong to.
__device__ __forceinline__ int tall_row(const WideConsumer& me, int high) {
    return me.warpgroup * 64 + me.slab * 16 + me.lane / 4 + high * 8;
}

/// After turning (store_matrix_x4 into the patch) a lane has 16 bytes of one row of the warp's 16.
__device__ __forceinline__ int turned_row(const WideConsumer& me, int row) {
    return me.warpgroup * 64 + me.slab * 16 + row;
}

/// The column of the intermediate that a lane's sums of a pair of eights belong to.
__device__ __forceinline__ int tall_column(const WideUnit& unit, const WideConsumer& me, int pair, int odd) {
    return unit.strip * 32 + pair * 8 + me.lane % 4 * 2 + odd;
}

__device__ __forceinline__ void add_tall_biases(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                WideTallSums (&sums)[2]) {
    const DecodeRows& bias = args.gate_up.bias;
#pragma unroll
    for (int pair = 0; pair < 16; ++pair)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int col = tall_column(unit, me, pair, odd);
            if (col >= args.down.cols) continue;
            PendingElement gate_bias;
            PendingElement up_bias;
            gate_bias.load(bias, unit.expert, col);
            up_bias.load(bias, unit.expert, args.down.cols + col);
#pragma unroll
            for (int high = 0; high < 2; ++high) {
                sums[pair / 8][pair % 8 * 2][high * 2 + odd] += gate_bias.value();
                sums[pair / 8][pair % 8 * 2 + 1][high * 2 + odd] += up_bias.value();
            }
        }
}

/// Gates become results, zeros behind the last column; `largest`: their magnitudes in each of the lane's rows.
__device__ __forceinline__ void activate_tall(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                              WideTallSums (&sums)[2], float (&largest)[2]) {
    const WideQuickActivation activation(args.activation);
    if (args.gate_up.bias.data != nullptr) add_tall_biases(args, unit, me, sums);
    if (!activation.bare)
#pragma unroll
        for (int pair = 0; pair < 16; ++pair)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                activation.limit_both(sums[pair / 8][pair % 8 * 2][i], sums[pair / 8][pair % 8 * 2 + 1][i]);
    if (unit.strip * 32 + 128 > args.down.cols)
#pragma unroll
        for (int pair = 0; pair < 16; ++pair)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (tall_column(unit, me, pair, i % 2) >= args.down.cols)  // what is there is of no column
                    sums[pair / 8][pair % 8 * 2][i] = sums[pair / 8][pair % 8 * 2 + 1][i] = 0.0F;
#pragma unroll
    for (int two = 0; two < 2; ++two)
#pragma unroll
        for (int pair = 0; pair < 4; ++pair)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                activation(sums[two][pair * 2][i], sums[two][pair * 2 + 1][i], sums[two][pair * 2 + 8][i],
                           sums[two][pair * 2 + 9][i]);
#pragma unroll
    for (int pair = 0; pair < 16; ++pair)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            largest[i / 2] = tokamak::cuda::larger_magnitude(largest[i / 2], sums[pair / 8][pair % 8 * 2][i]);
#pragma unroll
    for (int high = 0; high < 2; ++high)
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2)
            largest[high] = fmaxf(largest[high], __shfl_xor_sync(0xFFFFFFFFU, largest[high], distance));
}

/// Codes of the warp's 16 rows, 32 columns at a time turned by way of `patch`: those of two columns of one eight and of
/// the next travel as two numbers of 16 bits.
__device__ __forceinline__ void store_tall_codes(const WideTileCodes& to, int group, const WideConsumer& me,
                                                 std::uint8_t* patch, const tokamak::cuda::E4m3Scale (&scales)[2],
                                                 const WideTallSums (&sums)[2]) {
    const int row = turned_row(me, me.lane % 16);
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
#pragma unroll
    for (int four = 0; four < 4; ++four) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // matrices: rows g and g + 8 of two eights, then of the next two
            const int high = i % 2;
            std::uint32_t codes[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int pair = four * 4 + i / 2 * 2 + j;
                const float(&v)[4] = sums[pair / 8][pair % 8 * 2];
                codes[j] = wide_codes(v[high * 2], v[high * 2 + 1], scales[high].inverse);
            }
            pairs[i] = codes[0] | codes[1] << 16;
        }
        __syncwarp();
        ptx::store_matrix_x4(own, pairs);
        __syncwarp();
        const uint4 both = *reinterpret_cast<const uint4*>(patch + me.lane * 16);
        if (row < to.rows)
            *reinterpret_cast<uint4*>(to.codes(row, group, (four * 2 + me.lane / 16) * 2)) = {
                __byte_perm(both.x, both.y, 0x5410), __byte_perm(both.z, both.w, 0x5410),
                __byte_perm(both.x, both.y, 0x7632), __byte_perm(both.z, both.w, 0x7632)};
    }
}

/// 128 columns of the intermediate, which share a scale.
template <class Shape>
__device__ __forceinline__ void finish_tall_group(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                  std::uint8_t* patch, WideTallSums (&sums)[2]) {
    float largest[2] = {};
    activate_tall(args, unit, me, sums, largest);
    const int group = unit.strip / Shape::kGroupStrips;
    const WideTileCodes to(args.intermediate, unit.first, unit.rows, args.down.padded_cols / 128);
    const tokamak::cuda::E4m3Scale scales[2] = {tokamak::cuda::E4m3Scale::of(largest[0]),
                                                tokamak::cuda::E4m3Scale::of(largest[1])};
#pragma unroll
    for (int high = 0; high < 2; ++high)
        if (me.lane % 4 == 0 && tall_row(me, high) < unit.rows)
            *to.scale(tall_row(me, high), group) = scales[high].scale;
    store_tall_codes(to, group, me, patch, scales, sums);
}

/// The routes of a lane's own rows, and what their results are multiplied by; asked for before the multiplications.
struct TallRoutes {
    int routes[2] = {-1, -1};
    float factors[2] = {1.0F, 1.0F};

    __device__ __forceinline__ void ask(const WideArgs& args, const WideUnit& unit, const WideConsumer& me) {
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            if (tall_row(me, high) >= unit.rows) continue;
            routes[high] = __ldcg(args.list + unit.first + tall_row(me, high));
            factors[high] = __ldcg(args.factors + unit.first + tall_row(me, high));
        }
    }
};

__device__ __forceinline__ void add_tall_down_biases(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                     WideTallSums (&sums)[2]) {
#pragma unroll
    for (int n = 0; n < 32; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int col = unit.strip * 64 + n * 8 + me.lane % 4 * 2 + odd;
            PendingElement bias;
            if (col < args.gate_up.cols) bias.load(args.down.bias, unit.expert, col);
            sums[n / 16][n % 16][odd] += bias.value();
            sums[n / 16][n % 16][odd + 2] += bias.value();
        }
}

/// Rows of results in bf16, or results added to `out`: 64 bytes of each of the warp's 16 rows at a time, turned in
/// `patch`. With 32 bytes each store was of 16 lines.
template <class Shape>
__device__ __forceinline__ void finish_tall_down(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                 std::uint8_t* patch, const TallRoutes& rows, WideTallSums (&sums)[2]) {
    if (args.down.bias.data != nullptr) add_tall_down_biases(args, unit, me, sums);
    const int chunk = me.lane % 4;
    const int first = unit.strip * 64 + chunk * 8;
    const int left = min(unit.strips * 64, args.gate_up.cols - unit.strip * 64) - chunk * 8;  // of columns
    std::uint8_t* to[2];
#pragma unroll
    for (int high = 0; high < 2; ++high) to[high] = wide_half_target<Shape>(args, rows.routes[high]) + first * 2;
    // The 16 bytes of a row change places, so that eight lanes write to and read from different banks.
    const auto turned = [&](int row, int eight) { return row * 64 + (eight ^ row / 2 % 4) * 16; };
    const std::uint32_t own = ptx::shared_address(patch);
    const auto lower = static_cast<std::uint32_t>(turned(me.lane % 16, me.lane / 16));
    const auto upper = static_cast<std::uint32_t>(turned(me.lane % 16, me.lane / 16 + 2));
    const std::uint8_t* const from = patch + turned(me.lane / 4, chunk);  // that of a row behind the eighth: 512 on
#pragma unroll
    for (int four = 0; four < 8; ++four) {
        std::uint32_t pairs[2][4];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float(&s)[4] = sums[four / 4][four % 4 * 4 + i / 2];
            const float factor = rows.factors[i % 2];
            const __nv_bfloat162 pair = __floats2bfloat162_rn(s[i % 2 * 2] * factor, s[i % 2 * 2 + 1] * factor);
            pairs[i / 4][i % 4] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        __syncwarp();
        ptx::store_matrix_x4(own + lower, pairs[0]);
        ptx::store_matrix_x4(own + upper, pairs[1]);
        __syncwarp();
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            const uint4 eight = *reinterpret_cast<const uint4*>(from + high * 512);
            const int route = rows.routes[high];
            if (route < 0 || four * 32 >= left) continue;
            put_half_result<Shape>(args, to[high] + four * 64, route, eight);
        }
    }
}

}  // namespace tokamak::moe::cuda
