// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums, straight from the registers of the matrix instruction: a lane holds rows g and g + 8
// of a slab for tokens 2t and 2t + 1 of each eight.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/multiply.cuh"
#include "moe/cuda/grouped/prepare.cuh"

namespace tokamak::moe::cuda {

/// Biases of a lane's two rows of one strip: loaded before the strip is multiplied, needed after it.
template <bool Down>
struct LaneBias {
    PendingElement low;
    PendingElement high;

    __device__ void load(const GroupedArgs& args, int expert, int strip, const Consumer& me) {
        const DecodeRows& bias = Down ? args.down.bias : args.gate_up.bias;
        if (bias.data == nullptr) return;
        const int g = me.lane / 4;
        if constexpr (Down) {
            const int col = strip * 64 + me.slab * 16 + g;
            if (col < args.gate_up.cols) low.load(bias, expert, col);
            if (col + 8 < args.gate_up.cols) high.load(bias, expert, col + 8);
        } else {
            const int col = strip * 32 + me.slab * 8 + g;
            if (col >= args.down.cols) return;
            low.load(bias, expert, col);
            high.load(bias, expert, args.down.cols + col);
        }
    }
};

/// The lane's rows g and g + 8 of one strip, for one token.
template <bool Down, class Shape>
__device__ __forceinline__ void finish_pair(const GroupedArgs& args, int route, int strip, const Consumer& me,
                                            float low, float high) {
    const int g = me.lane / 4;
    if constexpr (Down) {
        const int hidden = args.gate_up.cols;
        const int col = strip * 64 + me.slab * 16 + g;
        float* const to = args.partials + static_cast<std::int64_t>(route) * hidden + col;
        if (col < hidden) to[0] = low;
        if (col + 8 < hidden) to[8] = high;
    } else {
        const int col = strip * 32 + me.slab * 8 + g;
        if (col >= args.down.cols) return;
        const float value = activate(args.activation, low, high);
        auto* const rows = static_cast<__nv_bfloat16*>(args.intermediate);
        if constexpr (Shape::kPrepares) {
            const std::int64_t padded = (args.down.cols + kPreparedGroup - 1) / kPreparedGroup * kPreparedGroup;
            rows[route * padded + moved_place(col)] = __float2bfloat16_rn(value * kLargeActivations);
        } else {
            rows[route * args.intermediate_stride + col] = __float2bfloat16_rn(value);
        }
    }
}

template <bool Down, class Shape, int Strips, int Blocks>
__device__ __forceinline__ void finish_unit(const GroupedArgs& args, const RowLists& lists, const Unit& unit,
                                            const Consumer& me, const LaneBias<Down> (&bias)[Strips],
                                            const float (&sums)[Strips][Blocks][4]) {
    constexpr float scale = Shape::Weights::kSumScale;
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            const int row = n * 8 + me.lane % 4 * 2 + odd;
            if (row >= unit.tile.rows) continue;
            const int route = lists.list[unit.tile.first + row];
#pragma unroll
            for (int i = 0; i < Strips; ++i)
                finish_pair<Down, Shape>(args, route, unit.strip + me.warpgroup + i * Shape::kWarpgroups, me,
                                         fmaf(sums[i][n][odd], scale, bias[i].low.value()),
                                         fmaf(sums[i][n][odd + 2], scale, bias[i].high.value()));
        }
}

/// Past the L1: other SMs wrote them just now.
template <int Cols>
__device__ __forceinline__ void load_partials(const float* from, float (&values)[Cols]) {
    if constexpr (Cols == 4) {
        const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
        values[0] = four.x;
        values[1] = four.y;
        values[2] = four.z;
        values[3] = four.w;
    } else {
        values[0] = __ldcg(from);
    }
}

/// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
template <int Cols>
__device__ __forceinline__ void combine_columns(const GroupedArgs& args, const RowLists& lists, std::int64_t row,
                                                int token, int col) {
    const int hidden = args.gate_up.cols;
    float sums[Cols] = {};
    constexpr int at_once = 8;  // loads that are on their way together
    for (int first = 0; first < args.top_k; first += at_once) {
        float values[at_once][Cols];
        float weights[at_once];
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
            const int route = token * args.top_k + first + i;
            weights[i] = 0.0F;
            if (first + i >= args.top_k || lists.route_expert[route] < 0) continue;
            load_partials(args.partials + static_cast<std::int64_t>(route) * hidden + col, values[i]);
            weights[i] = args.weights.data != nullptr ? load_element(args.weights, row, first + i) : 1.0F;
        }
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
            if (first + i >= args.top_k || lists.route_expert[token * args.top_k + first + i] < 0) continue;
#pragma unroll
            for (int c = 0; c < Cols; ++c) sums[c] = fmaf(weights[i], values[i][c], sums[c]);
        }
    }
    const std::int64_t to = row * args.out_stride + col;
#pragma unroll
    for (int i = 0; i < Cols; ++i) {
        if (args.shared_output.data != nullptr) sums[i] += load_element(args.shared_output, row, col + i);
        if (args.accumulate) sums[i] += load_element(args.out, args.out_dtype, to + i);
        store_element(args.out, args.out_dtype, to + i, sums[i]);
    }
}

__device__ inline void combine(const GroupedArgs& args, const RowLists& lists, std::int64_t first, int count) {
    const int hidden = args.gate_up.cols;
    const bool vectors = hidden % 4 == 0;
    const int row_jobs = vectors ? hidden / 4 : hidden;
    const std::int64_t total = static_cast<std::int64_t>(count) * row_jobs;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += step) {
        const int token = static_cast<int>(at / row_jobs);
        const int job = static_cast<int>(at - static_cast<std::int64_t>(token) * row_jobs);
        if (vectors)
            combine_columns<4>(args, lists, first + token, token, job * 4);
        else
            combine_columns<1>(args, lists, first + token, token, job);
    }
}

}  // namespace tokamak::moe::cuda
