// SPDX-License-Identifier: Apache-2.0
// The last step: results of a token's routes, weighted, in the order of the slots.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/complete_tiles.cuh"
#include "moe/cuda/grouped/prepare.cuh"

namespace tokamak::moe::cuda {

/// What a warp knows of a token: lane i the result of slot i.
struct TokenResults {
    std::uint32_t local = 0;  ///< slots whose result is here
    int tiles = 0;            ///< that many row tiles, from the first on, have all of them; where CTAs ask for units
    PendingElement weight;    ///< of the lane's slot

    [[nodiscard]] __device__ __forceinline__ float weight_of(const GroupedArgs& args, int slot) const {
        return args.weights.data != nullptr ? __shfl_sync(0xFFFFFFFFU, weight.value(), slot) : 1.0F;
    }
};

template <class Shape>
__device__ __forceinline__ TokenResults find_results(const GroupedArgs& args, const RowLists& lists, std::int64_t row,
                                                     int token) {
    const int slot = static_cast<int>(threadIdx.x) % 32;
    int expert = -1;
    TokenResults results;
    if (slot < args.top_k) {
        if constexpr (Shape::kGridLists)
            expert = local_expert(args, load_id(args.ids, row, slot));
        else
            expert = lists.route_expert[token * args.top_k + slot];
        if (expert >= 0 && args.weights.data != nullptr) results.weight.load(args.weights, row, slot);
    }
    results.local = __ballot_sync(0xFFFFFFFFU, expert >= 0);
    if constexpr (Shape::kDealt)
        results.tiles = __reduce_max_sync(0xFFFFFFFFU, expert >= 0 ? lists.tile_ends[expert] : 0);
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
        weights[i] = results.weight_of(args, slot);
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

template <int Cols>
__device__ __forceinline__ void store_sums(const GroupedArgs& args, std::int64_t row, int col, float (&sums)[Cols]) {
    const std::int64_t to = row * args.out_stride + col;
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
    if (results.local == 0 && (args.live_rows_only || args.clears_first)) return;
    const int inside = (args.gate_up.cols - col + 32 * Cols - 1) / (32 * Cols);  // not positive behind the last column
    const int live = min(inside, min(pieces, Pieces));
    float sums[Pieces][Cols] = {};
    for (std::uint32_t left = results.local; left != 0;)
        add_results<Slots>(args, results, left, token, col, live, sums);
    if constexpr (Cols == 4)
        if (args.plain_output) {
            auto* const to = static_cast<__nv_bfloat16*>(args.out) + row * args.out_stride + col;
#pragma unroll
            for (int p = 0; p < Pieces; ++p)
                if (p < live)
                    *reinterpret_cast<uint2*>(to + p * 32 * Cols) = {bf16_pair(sums[p][0], sums[p][1]),
                                                                     bf16_pair(sums[p][2], sums[p][3])};
            return;
        }
#pragma unroll
    for (int p = 0; p < Pieces; ++p)
        if (p < live) store_sums(args, row, col + p * 32 * Cols, sums[p]);
}

/// All loads of a call are on their way together: many results of few pieces, or few of several. Returns how many
/// pieces it took of the `left` ones.
template <class Shape, int Cols>
__device__ __forceinline__ int combine_some(const GroupedArgs& args, const TokenResults& results, std::int64_t row,
                                            int token, int piece, int left) {
    constexpr int few = Shape::kDealt ? 4 : 2;
    constexpr int many_pieces = Shape::kDealt ? 2 : 1;
    constexpr int pieces = Shape::kDealt ? kShortJobPieces : kCombinePieces;
    const int col = piece * 32 * Cols + static_cast<int>(threadIdx.x) % 32 * Cols;
    if (__popc(results.local) > few) {
        combine_pieces<8, many_pieces, Cols>(args, results, row, token, col, left);
        return many_pieces;
    }
    combine_pieces<few, pieces, Cols>(args, results, row, token, col, left);
    return pieces;
}

/// The warps of a CTA take its jobs from a counter in shared memory, which is zero. What a job needs to know of its
/// token is asked for while the one before is done; of the first one before the results are there.
template <class Shape>
class CombineWork {
  public:
    __device__ CombineWork(const GroupedArgs& args, const RowLists& lists, std::int64_t first, int count)
        : args_(args),
          lists_(lists),
          first_(first),
          vectors_(args.gate_up.cols % 4 == 0),
          total_(count * static_cast<int>(args.combine.parts.value)) {
        ask();
    }
    /// Once the results are there; where CTAs ask for units, waits for those of each job.
    __device__ void run() {
        while (job_ < total_) {
            const int token = token_;
            int piece = (job_ - token * static_cast<int>(args_.combine.parts.value)) * args_.combine.length;
            const TokenResults results = results_;
            ask();
            if constexpr (Shape::kDealt) await_tiles(lists_, results.tiles);
            for (const int end = min(args_.combine.pieces, piece + args_.combine.length); piece < end;)
                piece += vectors_ ? combine_some<Shape, 4>(args_, results, first_ + token, token, piece, end - piece)
                                  : combine_some<Shape, 1>(args_, results, first_ + token, token, piece, end - piece);
        }
    }

  private:
    __device__ __forceinline__ void ask() {
        int turn = 0;
        if (threadIdx.x % 32 == 0) turn = atomicAdd(&lists_.counts[kCombineCounter], 1);
        job_ = static_cast<int>(blockIdx.x) + __shfl_sync(0xFFFFFFFFU, turn, 0) * static_cast<int>(gridDim.x);
        token_ = quotient(min(job_, total_ - 1), args_.combine.parts);
        results_ = find_results<Shape>(args_, lists_, first_ + token_, token_);
    }

    const GroupedArgs& args_;
    const RowLists& lists_;
    std::int64_t first_;
    bool vectors_;
    int total_;  ///< jobs
    int job_ = 0;
    int token_ = 0;
    TokenResults results_;  ///< of the job that comes
};

}  // namespace tokamak::moe::cuda
