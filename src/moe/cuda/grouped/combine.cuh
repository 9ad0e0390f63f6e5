// SPDX-License-Identifier: Apache-2.0
// The last step: results of a token's routes, weighted, in the order of the slots.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/row_lists.cuh"

namespace tokamak::moe::cuda {

/// What a warp knows of a token: lane i the result of slot i.
struct TokenResults {
    std::uint32_t local = 0;  ///< slots whose result is here
    float weight = 0.0F;      ///< of the lane's slot
};

template <class Shape>
__device__ __forceinline__ TokenResults find_results(const GroupedArgs& args, const RowLists& lists, std::int64_t row,
                                                     int token) {
    const int slot = static_cast<int>(threadIdx.x) % 32;
    bool local = false;
    TokenResults results;
    if (slot < args.top_k) {
        if constexpr (Shape::kGridLists)
            local = local_expert(args, load_id(args.ids, row, slot)) >= 0;
        else
            local = lists.route_expert[token * args.top_k + slot] >= 0;
        if (local) results.weight = args.weights.data != nullptr ? load_element(args.weights, row, slot) : 1.0F;
    }
    results.local = __ballot_sync(0xFFFFFFFFU, local);
    return results;
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

/// Weighted results in the order of the slots. By a warp; `live`: the lane's columns exist.
template <int Cols>
__device__ __forceinline__ void sum_results(const GroupedArgs& args, const TokenResults& results, int token, int col,
                                            bool live, float (&sums)[Cols]) {
    constexpr int at_once = 8;  // loads that are on their way together
    for (std::uint32_t left = results.local; left != 0;) {
        float values[at_once][Cols];
        float weights[at_once];
        const int count = __popc(left);
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
            const int slot = i < count ? __ffs(static_cast<int>(left)) - 1 : 0;
            weights[i] = __shfl_sync(0xFFFFFFFFU, results.weight, slot);
            if (i < count && live)
                load_partials(
                    args.partials + (static_cast<std::int64_t>(token) * args.top_k + slot) * args.gate_up.cols + col,
                    values[i]);
            left &= left - 1;
        }
#pragma unroll
        for (int i = 0; i < at_once; ++i)
            if (i < count && live)
#pragma unroll
                for (int c = 0; c < Cols; ++c) sums[c] = fmaf(weights[i], values[i][c], sums[c]);
    }
}

/// out = what it held (if asked) + shared output + weighted results; one rounding.
template <int Cols>
__device__ __forceinline__ void combine_columns(const GroupedArgs& args, const TokenResults& results, std::int64_t row,
                                                int token, int col) {
    const bool live = col < args.gate_up.cols;
    float sums[Cols] = {};
    sum_results(args, results, token, col, live, sums);
    if (!live) return;
    const std::int64_t to = row * args.out_stride + col;
#pragma unroll
    for (int i = 0; i < Cols; ++i) {
        if (args.shared_output.data != nullptr) sums[i] += load_element(args.shared_output, row, col + i);
        if (args.accumulate) sums[i] += load_element(args.out, args.out_dtype, to + i);
        store_element(args.out, args.out_dtype, to + i, sums[i]);
    }
}

/// Warps share the pass evenly; one takes neighbouring pieces, most of the same token.
template <class Shape>
__device__ __forceinline__ void combine(const GroupedArgs& args, const RowLists& lists, std::int64_t first, int count) {
    const bool vectors = args.gate_up.cols % 4 == 0;
    const int piece = vectors ? 128 : 32;  // columns of a warp
    const int pieces = (args.gate_up.cols + piece - 1) / piece;
    const int warps = static_cast<int>(gridDim.x) * (Shape::kThreads / 32);
    const int warp = static_cast<int>(blockIdx.x) * (Shape::kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t total = static_cast<std::int64_t>(count) * pieces;
    const std::int64_t end = total * (warp + 1) / warps;
    std::int64_t at = total * warp / warps;
    int token = static_cast<int>(at / pieces);
    int own = static_cast<int>(at - static_cast<std::int64_t>(token) * pieces);
    while (at < end) {
        const TokenResults results = find_results<Shape>(args, lists, first + token, token);
        for (; own < pieces && at < end; ++own, ++at)
            if (vectors)
                combine_columns<4>(args, results, first + token, token, own * piece + lane * 4);
            else
                combine_columns<1>(args, results, first + token, token, own * piece + lane);
        own = 0;
        ++token;
    }
}

}  // namespace tokamak::moe::cuda
