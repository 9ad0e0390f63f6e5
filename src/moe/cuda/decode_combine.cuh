// SPDX-License-Identifier: Apache-2.0
// The end of the decode kernel: tokens from the results of their routes.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

/// The weighted results of neighbouring outputs, summed in the order of the slots.
template <int Width>
__device__ __forceinline__ void weighted_sums(const DecodeArgs& args, const RoutingTables& tables, int token, int col,
                                              float (&sums)[Width]) {
    constexpr int batch = 8;  // loads in flight
    const int hidden = args.gate_up.cols;
#pragma unroll 1
    for (int begin = 0; begin < args.top_k; begin += batch) {
        float loaded[batch][Width];
        float weights[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int route = token * args.top_k + begin + i;
            const int rank = begin + i < args.top_k ? tables.route_rank[route] : -1;
            weights[i] = 0.0F;
#pragma unroll
            for (int j = 0; j < Width; ++j) loaded[i][j] = 0.0F;
            if (rank < 0) continue;
            // A row that was weighted at the input is its route's alone.
            const std::int64_t row = args.weight_input ? route : tables.slot(rank, token);
            weights[i] = args.weight_input ? 1.0F : tables.route_weight[route];
            const float* const from = args.partials + row * hidden + col;
            if constexpr (Width == 2) {
                const float2 two = __ldcg(reinterpret_cast<const float2*>(from));
                loaded[i][0] = two.x;
                loaded[i][1] = two.y;
            } else {
                loaded[i][0] = __ldcg(from);
            }
        }
#pragma unroll
        for (int i = 0; i < batch; ++i)
#pragma unroll
            for (int j = 0; j < Width; ++j) sums[j] = fmaf(weights[i], loaded[i][j], sums[j]);
    }
}

/// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding. The grid's
/// warps take runs of 32 times `Width` columns in turn, first one on every SM: with two columns a lane all warps
/// together take 8 tokens of 7168 columns at once.
template <int Width>
__device__ __forceinline__ void combine_runs(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first,
                                             int count) {
    constexpr int run_cols = 32 * Width;
    const int hidden = args.gate_up.cols;
    const int runs = (hidden + run_cols - 1) / run_cols * kPassTokens;
    const int step = static_cast<int>(gridDim.x * blockDim.x) / 32;
#pragma unroll 1
    for (int run = static_cast<int>(threadIdx.x / 32 * gridDim.x + blockIdx.x); run < runs; run += step) {
        const int token = run % kPassTokens;
        const int col = run / kPassTokens * run_cols + static_cast<int>(threadIdx.x) % 32 * Width;
        if (token >= count || col >= hidden) continue;
        float sums[Width] = {};
        weighted_sums(args, tables, token, col, sums);
        const std::int64_t row = first + token;
        const std::int64_t to = row * args.out_stride + col;
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            if (args.shared_output.data != nullptr) sums[j] += load_element(args.shared_output, row, col + j);
            if (args.accumulate) sums[j] += load_element(args.out, args.out_dtype, to + j);
            store_element(args.out, args.out_dtype, to + j, sums[j]);
        }
    }
}

__device__ __forceinline__ void combine(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first,
                                        int count) {
    if (args.gate_up.cols % 2 == 0)
        combine_runs<2>(args, tables, first, count);
    else
        combine_runs<1>(args, tables, first, count);
}

}  // namespace tokamak::moe::cuda
