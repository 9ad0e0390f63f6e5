// SPDX-License-Identifier: Apache-2.0
// The end of the decode kernel: tokens from the results of their routes.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

/// Columns of a lane: with two of them all warps together take 8 tokens of 7168 columns at once.
inline constexpr int kLaneColumns = 2;

/// The weighted results of neighbouring outputs, summed in the order of the slots; `pairs`: they can be loaded as one.
__device__ __forceinline__ void weighted_sums(const DecodeArgs& args, const RoutingTables& tables, int token, int col,
                                              bool pairs, float (&sums)[kLaneColumns]) {
    constexpr int batch = 8;  // loads in flight
    const int hidden = args.gate_up.cols;
#pragma unroll 1
    for (int begin = 0; begin < args.top_k; begin += batch) {
        float2 loaded[batch];
        float weights[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int route = token * args.top_k + begin + i;
            const int rank = begin + i < args.top_k ? tables.route_rank[route] : -1;
            weights[i] = 0.0F;
            loaded[i] = {0.0F, 0.0F};
            if (rank < 0) continue;
            // A row that was weighted at the input is its route's alone.
            const std::int64_t row = args.weight_input ? route : tables.slot(rank, token);
            weights[i] = args.weight_input ? 1.0F : tables.route_weight[route];
            const float* const from = args.partials + row * hidden + col;
            if (pairs)
                loaded[i] = __ldcg(reinterpret_cast<const float2*>(from));
            else
                loaded[i] = {__ldcg(from), col + 1 < hidden ? __ldcg(from + 1) : 0.0F};
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            sums[0] = fmaf(weights[i], loaded[i].x, sums[0]);
            sums[1] = fmaf(weights[i], loaded[i].y, sums[1]);
        }
    }
}

/// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding. The grid's
/// warps take runs of columns in turn, first one on every SM.
__device__ __forceinline__ void combine(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first,
                                        int count) {
    constexpr int run_cols = 32 * kLaneColumns;
    const int hidden = args.gate_up.cols;
    const int runs = (hidden + run_cols - 1) / run_cols * kPassTokens;
    const int step = static_cast<int>(gridDim.x * blockDim.x) / 32;
#pragma unroll 1
    for (int run = static_cast<int>(threadIdx.x / 32 * gridDim.x + blockIdx.x); run < runs; run += step) {
        const int token = run % kPassTokens;
        const int begin = run / kPassTokens * run_cols + static_cast<int>(threadIdx.x) % 32 * kLaneColumns;
        if (token >= count || begin >= hidden) continue;
        float sums[kLaneColumns] = {};
        weighted_sums(args, tables, token, begin, hidden % kLaneColumns == 0, sums);
        const std::int64_t row = first + token;
        const std::int64_t to = row * args.out_stride + begin;
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
            if (begin + j >= hidden) continue;
            if (args.shared_output.data != nullptr) sums[j] += load_element(args.shared_output, row, begin + j);
            if (args.accumulate) sums[j] += load_element(args.out, args.out_dtype, to + j);
            store_element(args.out, args.out_dtype, to + j, sums[j]);
        }
    }
}

}  // namespace tokamak::moe::cuda
