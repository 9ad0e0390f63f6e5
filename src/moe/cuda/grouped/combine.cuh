// SPDX-License-Identifier: Apache-2.0
// The last step: results of a token's routes, weighted, in the order of the slots.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/prepare.cuh"

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

/// Adds the weighted results of up to `Slots` of the slots in `left`, lowest first, to the sums of `Pieces` pieces of
/// columns; takes them out of `left`. By a warp; `live`: pieces of which the lane's columns exist.
template <int Slots, int Pieces, int Cols>
__device__ __forceinline__ void add_results(const GroupedArgs& args, const TokenResults& results, std::uint32_t& left,
                                            int token, int col, int live, float (&sums)[Pieces][Cols]) {
    float values[Slots][Pieces][Cols] = {};
    float weights[Slots];
    const int count = __popc(left);
#pragma unroll
    for (int i = 0; i < Slots; ++i) {
        const int slot = i < count ? __ffs(static_cast<int>(left)) - 1 : 0;
        weights[i] = __shfl_sync(0xFFFFFFFFU, results.weight, slot);
        const float* const from =
            args.partials + (static_cast<std::int64_t>(token) * args.top_k + slot) * args.gate_up.cols + col;
#pragma unroll
        for (int p = 0; p < Pieces; ++p)
            if (i < count && p < live) load_partials(from + p * 32 * Cols, values[i][p]);
        left &= left - 1;
    }
#pragma unroll
    for (int i = 0; i < Slots; ++i)
#pragma unroll
        for (int p = 0; p < Pieces; ++p)
            if (i < count && p < live)
#pragma unroll
                for (int c = 0; c < Cols; ++c) sums[p][c] = fmaf(weights[i], values[i][p][c], sums[p][c]);
}

/// Four sums as bf16 by one store, which needs an aligned place and nothing to be added.
__device__ __forceinline__ bool store_four(const GroupedArgs& args, std::int64_t to, const float (&sums)[4]) {
    if (args.out_dtype != DType::bf16 || args.accumulate || args.shared_output.data != nullptr) return false;
    auto* const at = static_cast<std::uint16_t*>(args.out) + to;
    if (reinterpret_cast<std::uintptr_t>(at) % 8 != 0) return false;
    *reinterpret_cast<uint2*>(at) = {bf16_pair(sums[0], sums[1]), bf16_pair(sums[2], sums[3])};
    return true;
}

template <int Cols>
__device__ __forceinline__ void store_sums(const GroupedArgs& args, std::int64_t row, int col, float (&sums)[Cols]) {
    const std::int64_t to = row * args.out_stride + col;
    if constexpr (Cols == 4)
        if (store_four(args, to, sums)) return;
#pragma unroll
    for (int i = 0; i < Cols; ++i) {
        if (args.shared_output.data != nullptr) sums[i] += load_element(args.shared_output, row, col + i);
        if (args.accumulate) sums[i] += load_element(args.out, args.out_dtype, to + i);
        store_element(args.out, args.out_dtype, to + i, sums[i]);
    }
}

/// out = what it held (if asked) + shared output + weighted results; one rounding. `pieces` of 32 * Cols columns; a
/// lane has Cols of each, its first at `col`.
template <int Slots, int Pieces, int Cols>
__device__ __forceinline__ void combine_pieces(const GroupedArgs& args, const TokenResults& results, std::int64_t row,
                                               int token, int col, int pieces) {
    if (args.live_rows_only && results.local == 0) return;
    const int inside = (args.gate_up.cols - col + 32 * Cols - 1) / (32 * Cols);  // not positive behind the last column
    const int live = inside < pieces ? inside : pieces;
    float sums[Pieces][Cols] = {};
    for (std::uint32_t left = results.local; left != 0;)
        add_results<Slots>(args, results, left, token, col, live, sums);
#pragma unroll
    for (int p = 0; p < Pieces; ++p)
        if (p < live) store_sums(args, row, col + p * 32 * Cols, sums[p]);
}

/// All loads of a call are on their way together: many results of one piece, or few of several.
template <int Cols>
__device__ __forceinline__ int combine_some(const GroupedArgs& args, const TokenResults& results, std::int64_t row,
                                            int token, int piece, int left) {
    constexpr int few = 2;
    const int col = piece * 32 * Cols + static_cast<int>(threadIdx.x) % 32 * Cols;
    if (__popc(results.local) > few) {
        combine_pieces<8, 1, Cols>(args, results, row, token, col, 1);
        return 1;
    }
    const int pieces = left < 4 ? left : 4;
    combine_pieces<few, 4, Cols>(args, results, row, token, col, pieces);
    return pieces;
}

/// Warps share the pass evenly; one takes neighbouring pieces, most of the same token. Which it takes together changes
/// no sum.
template <class Shape>
__device__ __forceinline__ void combine(const GroupedArgs& args, const RowLists& lists, std::int64_t first, int count) {
    const bool vectors = args.gate_up.cols % 4 == 0;
    const int piece = vectors ? 128 : 32;  // columns of a warp
    const int pieces = (args.gate_up.cols + piece - 1) / piece;
    const int warps = static_cast<int>(gridDim.x) * (Shape::kThreads / 32);
    const int warp = static_cast<int>(blockIdx.x) * (Shape::kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
    const std::int64_t total = static_cast<std::int64_t>(count) * pieces;
    const std::int64_t end = total * (warp + 1) / warps;
    std::int64_t at = total * warp / warps;
    int token = static_cast<int>(at / pieces);
    int own = static_cast<int>(at - static_cast<std::int64_t>(token) * pieces);
    while (at < end) {
        const TokenResults results = find_results<Shape>(args, lists, first + token, token);
        while (own < pieces && at < end) {
            const int left = static_cast<int>(end - at < pieces - own ? end - at : pieces - own);
            const int done = vectors ? combine_some<4>(args, results, first + token, token, own, left)
                                     : combine_some<1>(args, results, first + token, token, own, left);
            own += done;
            at += done;
        }
        own = 0;
        ++token;
    }
}

}  // namespace tokamak::moe::cuda
