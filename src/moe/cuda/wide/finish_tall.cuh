// SPDX-License-Identifier: Apache-2.0
// What becomes of the sums of a unit with many e4m3 rows (multiply_tall.cuh): a lane holds rows g and g + 8 of the 16
// of its warp, for each eight of the strips' rows numbers 2t and 2t + 1. A row lies in the four lanes of a quad.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/multiply_tall.cuh"
#include "moe/cuda/wide/scatter.cuh"

namespace tokamak::moe::cuda {

/// Row of the tile that a lane's `low` (0) or `high` (1) sums belong to.
__device__ __forceinline__ int tall_row(const WideConsumer& me, int high) {
    return me.warpgroup * 64 + me.slab * 16 + me.lane / 4 + high * 8;
}

/// Lane t of a quad has words 2t and 2t + 1 of four rows of eight words; it gets row t's: of `own` one word for each
/// row.
__device__ __forceinline__ uint4 turn_quad(int lane, const std::uint32_t (&own)[4]) {
    const bool upper = lane % 4 >= 2;
    const bool odd = lane % 2 != 0;
    std::uint32_t kept[2];
    std::uint32_t got[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        kept[i] = upper ? own[2 + i] : own[i];
        got[i] = __shfl_xor_sync(0xFFFFFFFFU, upper ? own[i] : own[2 + i], 2);
    }
    const std::uint32_t from_lower[2] = {upper ? got[0] : kept[0], upper ? got[1] : kept[1]};
    const std::uint32_t from_upper[2] = {upper ? kept[0] : got[0], upper ? kept[1] : got[1]};
    const std::uint32_t lower = __shfl_xor_sync(0xFFFFFFFFU, odd ? from_lower[0] : from_lower[1], 1);
    const std::uint32_t higher = __shfl_xor_sync(0xFFFFFFFFU, odd ? from_upper[0] : from_upper[1], 1);
    return odd ? uint4{lower, from_lower[1], higher, from_upper[1]}
               : uint4{from_lower[0], lower, from_upper[0], higher};
}

/// The same with words of 16 bits, two of them in one.
__device__ __forceinline__ uint2 turn_quad_halves(int lane, const std::uint32_t (&own)[2]) {
    const bool upper = lane % 4 >= 2;
    const bool odd = lane % 2 != 0;
    const std::uint32_t kept = upper ? own[1] : own[0];
    const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFFU, upper ? own[0] : own[1], 2);
    const std::uint32_t lower = upper ? got : kept;
    const std::uint32_t higher = upper ? kept : got;
    const std::uint32_t sent = __byte_perm(lower, higher, odd ? 0x5410 : 0x7632);
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFU, sent, 1);
    return odd ? uint2{__byte_perm(other, lower, 0x7610), __byte_perm(other, higher, 0x7632)}
               : uint2{__byte_perm(lower, other, 0x5410), __byte_perm(higher, other, 0x7610)};
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

/// Gates become results, zeros behind the last column; `largest`: their magnitudes in each of the lane's rows. Without
/// a branch around an activation: with one they follow each other, 150 cycles each.
__device__ __forceinline__ void activate_tall(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                              WideTallSums (&sums)[2], float (&largest)[2]) {
    const WideQuickActivation activation(args.activation);
    if (args.gate_up.bias.data != nullptr) add_tall_biases(args, unit, me, sums);
#pragma unroll
    for (int pair = 0; pair < 16; ++pair)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float& gate = sums[pair / 8][pair % 8 * 2][i];
            gate = activation(gate, sums[pair / 8][pair % 8 * 2 + 1][i]);
        }
    if (unit.strip * 32 + 128 > args.down.cols)
#pragma unroll
        for (int pair = 0; pair < 16; ++pair)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (tall_column(unit, me, pair, i % 2) >= args.down.cols) sums[pair / 8][pair % 8 * 2][i] = 0.0F;
#pragma unroll
    for (int pair = 0; pair < 16; ++pair)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            largest[i / 2] = tokamak::cuda::larger_magnitude(largest[i / 2], sums[pair / 8][pair % 8 * 2][i]);
}

/// 128 columns of the intermediate, which share a scale.
template <class Shape>
__device__ __forceinline__ void finish_tall_group(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                  WideTallSums (&sums)[2]) {
    float largest[2] = {};
    activate_tall(args, unit, me, sums, largest);
    const int group = unit.strip / Shape::kGroupStrips;
    const WideTileCodes to(args.intermediate, unit.first, unit.rows, args.down.padded_cols / 128);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
        float most = largest[high];
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 2));
        const auto scale = tokamak::cuda::E4m3Scale::of(most);
        const int row = tall_row(me, high);
        const bool live = row < unit.rows;
        if (live && me.lane % 4 == 0) *to.scale(row, group) = scale.scale;
#pragma unroll
        for (int strip = 0; strip < 4; ++strip) {
            std::uint32_t codes[4];
#pragma unroll
            for (int slab = 0; slab < 4; ++slab) {
                const float(&v)[4] = sums[strip / 2][strip % 2 * 8 + slab * 2];
                codes[slab] = wide_codes(v[high * 2], v[high * 2 + 1], scale.inverse, scale.divisor);
            }
            const uint2 eight = turn_quad_halves(me.lane, {codes[0] | codes[1] << 16, codes[2] | codes[3] << 16});
            if (live) *to.codes(row, group, strip * 4 + me.lane % 4) = eight;
        }
    }
    ptx::fence_all_async();
    ptx::named_barrier(1, Shape::kConsumerWarps * 32);
    if (threadIdx.x == 0) TileCounts{args.tile_parts}.add(unit.tile);
}

/// Where results of the lane's rows go, in elements from the beginning of a buffer, and what they are multiplied by.
template <class Shape>
struct WideTallTarget {
    std::int64_t to[2];  ///< negative behind the last row
    float weights[2];
    bool vectors;  ///< 16 bytes of bf16 at once

    __device__ WideTallTarget(const WideArgs& args, const WideUnit& unit, const WideConsumer& me) {
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            const int row = tall_row(me, high);
            const int route = row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
            to[high] = route < 0 ? -1 : route * wide_result_stride(args, true);
            weights[high] = 1.0F;
            if (!Shape::atomic(args) || route < 0) continue;
            const int token = route / args.top_k;
            to[high] = (args.first_token + token) * args.out_stride;
            if (args.weights.data != nullptr)
                weights[high] = load_element(args.weights, args.first_token + token, route - token * args.top_k);
        }
        vectors = !Shape::atomic(args) || adds_vectors(args);
    }
};

/// Results of one strip: in bf16, or added to `out`.
template <class Shape>
__device__ __forceinline__ void finish_tall_strip(const WideArgs& args, const WideUnit& unit, int strip,
                                                  const WideConsumer& me, const WideTallTarget<Shape>& target,
                                                  const float (&sums)[8][4]) {
#pragma unroll
    for (int four = 0; four < 8; four += 4) {
        float bias[4][2] = {};
        if (args.down.bias.data != nullptr) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int col = strip * 64 + (four + i / 2) * 8 + me.lane % 4 * 2 + i % 2;
                PendingElement element;
                if (col < args.gate_up.cols) element.load(args.down.bias, unit.expert, col);
                bias[i / 2][i % 2] = element.value();
            }
        }
        const int col = strip * 64 + (four + me.lane % 4) * 8;
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            const std::int64_t to = target.to[high];
            std::uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&s)[4] = sums[four + i];
                const float even = (s[high * 2] + bias[i][0]) * target.weights[high];
                const float odd = (s[high * 2 + 1] + bias[i][1]) * target.weights[high];
                const __nv_bfloat162 pair = __floats2bfloat162_rn(even, odd);
                pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
                const int own = strip * 64 + (four + i) * 8 + me.lane % 4 * 2;
                if (target.vectors || to < 0) continue;
                if (own < args.gate_up.cols) add_element(args.out, args.out_dtype, to + own, even);
                if (own + 1 < args.gate_up.cols) add_element(args.out, args.out_dtype, to + own + 1, odd);
            }
            const uint4 eight = turn_quad(me.lane, pairs);
            if (!target.vectors || to < 0 || col >= args.gate_up.cols) continue;
            if (Shape::atomic(args))
                add_eight_bf16(static_cast<__nv_bfloat16*>(args.out) + to + col, eight);
            else
                store_eight(reinterpret_cast<std::uint8_t*>(args.partials) + (to + col) * 2, args.gate_up.cols - col,
                            eight);
        }
    }
}

template <class Shape>
__device__ __forceinline__ void finish_tall_down(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                 const WideTallSums (&sums)[2]) {
    const WideTallTarget<Shape> target(args, unit, me);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i >= unit.strips) return;
        finish_tall_strip<Shape>(args, unit, unit.strip + i, me, target,
                                 reinterpret_cast<const float(&)[8][4]>(sums[i / 2][i % 2 * 8]));
    }
}

}  // namespace tokamak::moe::cuda
