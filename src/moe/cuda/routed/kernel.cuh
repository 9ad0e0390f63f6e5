// SPDX-License-Identifier: Apache-2.0
// One routed GEMM with weighted combine in one cooperative launch: every CTA sorts the routes of a pass for itself,
// the CTAs share the (row tile, strip) units, products go to the workspace route by route, and behind a grid barrier
// each token's are summed in the order of its slots. A unit's eight warps split k.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "moe/cuda/routed/stream.cuh"

namespace tokamak::moe::cuda::routed {

template <class Weights>
struct Warp {
    using Stage = StageLayout<Weights>;
    std::uint8_t* ring;
    std::uint64_t* barriers;
    int index;
    int lane;

    __device__ Warp(std::uint8_t* shared, const Args& args)
        : index(static_cast<int>(threadIdx.x) / 32), lane(static_cast<int>(threadIdx.x) % 32) {
        ring = shared + index * Weights::kStages * Stage::kBytes;
        barriers = reinterpret_cast<std::uint64_t*>(shared + args.shared.barriers) + index * Weights::kStages;
    }
    [[nodiscard]] __device__ std::uint8_t* stage(int i) const { return ring + i * Stage::kBytes; }
};

/// What the sums of a row of a strip are multiplied with.
template <class Weights>
__device__ __forceinline__ float sum_scale(const Args& args, const Unit& unit, int row) {
    if constexpr (!Weights::kMatrixScale) return Weights::kSumScale;
    const std::uint8_t* const strip =
        args.packed + unit.tile.expert * args.expert_bytes + unit.strip * args.strip_bytes;
    const std::uint8_t* const end = strip + static_cast<std::int64_t>(args.tiles) * Weights::kTileBytes;
    return Weights::kSumScale * reinterpret_cast<const float*>(end)[row / 8 % 2];
}

/// Sums eight routes' columns over the warps and stores them, route by route.
template <class Weights>
__device__ __forceinline__ void store_sums(const Args& args, const Lists& lists, const Unit& unit, const float* reduce,
                                           int first_row) {
    const int row = static_cast<int>(threadIdx.x) % kStripRows;
    const float scale = sum_scale<Weights>(args, unit, row);
    const int col = unit.strip * kStripRows + row;
    for (int i = static_cast<int>(threadIdx.x) / kStripRows; i < kReduceTokens; i += kWarps * 32 / kStripRows) {
        if (first_row + i >= unit.tile.rows || col >= args.rows) continue;
        float sum = 0.0F;
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp) sum += reduce[(warp * kReduceTokens + i) * kReduceStride + row];
        const std::int64_t route = lists.list[unit.tile.first + first_row + i];
        args.partials[route * args.rows + col] = sum * scale;
    }
}

template <class Weights, int Blocks>
__device__ __forceinline__ void multiply_unit(const Args& args, const Lists& lists, const Unit& unit,
                                              const Warp<Weights>& me, Loader<Weights>& loader, RingPlace& place,
                                              float* reduce) {
    float sums[4][Blocks][4] = {};
    for (int k = me.index; k < args.tiles; k += kWarps) {
        ptx::barrier_wait(&me.barriers[place.slot], place.parity);
        ptx::copy_wait<Weights::kStages - 1>();
        __syncwarp();
        Weights::template multiply<Blocks>(me.stage(place.slot), me.lane, sums);
        __syncwarp();
        loader.issue(me.stage(place.slot), &me.barriers[place.slot]);
        place.advance(Weights::kStages);
    }
    const int g = me.lane / 4;
    const int t = me.lane % 4;
    float* const mine = reduce + me.index * kReduceTokens * kReduceStride;
#pragma unroll
    for (int n = 0; n < Blocks; ++n) {
        __syncthreads();  // the sums before have been read
#pragma unroll
        for (int slab = 0; slab < 4; ++slab)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                mine[(2 * t + i % 2) * kReduceStride + slab * 16 + g + i / 2 * 8] = sums[slab][n][i];
        __syncthreads();
        store_sums<Weights>(args, lists, unit, reduce, n * 8);
    }
}

/// All products of a pass.
template <class Weights>
__device__ __forceinline__ void multiply_pass(const Args& args, const Lists& lists, const Warp<Weights>& me,
                                              RingPlace& place, std::int64_t first_token, float* reduce) {
    Loader<Weights> loader(args, lists, first_token, me.index, me.lane);
    RingPlace ahead = place;
    for (int i = 0; i < Weights::kStages; ++i) {
        loader.issue(me.stage(ahead.slot), &me.barriers[ahead.slot]);
        ahead.advance(Weights::kStages);
    }
    UnitWalk walk(lists, args.strips);
    Unit unit{};
    while (walk.next(unit)) {
        const int rows = unit.tile.rows;
        if (rows <= 8)
            multiply_unit<Weights, 1>(args, lists, unit, me, loader, place, reduce);
        else if (Weights::kMostBlocks == 2 || rows <= 16)
            multiply_unit<Weights, 2>(args, lists, unit, me, loader, place, reduce);
        else
            multiply_unit<Weights, Weights::kMostBlocks>(args, lists, unit, me, loader, place, reduce);
    }
}

/// Columns [col, col + Cols) of one token; `token` counts within the pass.
template <int Cols>
__device__ __forceinline__ void combine_columns(const Args& args, const Lists& lists, std::int64_t first_token,
                                                int token, int col) {
    float sums[Cols] = {};
#pragma unroll 4
    for (int slot = 0; slot < args.top_k; ++slot) {
        const int route = token * args.top_k + slot;
        if (lists.local[route] < 0) continue;
        const std::int64_t at = (first_token + token) * args.weights.stride + slot;
        const float weight =
            args.weights.data != nullptr ? load_element(args.weights.data, args.weights.dtype, at) : 1.0F;
        const float* const from = args.partials + static_cast<std::int64_t>(route) * args.rows + col;
        if constexpr (Cols == 4) {
            const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
            sums[0] = fmaf(weight, four.x, sums[0]);
            sums[1] = fmaf(weight, four.y, sums[1]);
            sums[2] = fmaf(weight, four.z, sums[2]);
            sums[3] = fmaf(weight, four.w, sums[3]);
        } else {
            sums[0] = fmaf(weight, __ldcg(from), sums[0]);
        }
    }
#pragma unroll
    for (int i = 0; i < Cols; ++i)
        store_element(args.out, args.out_dtype, (first_token + token) * args.out_stride + col + i, sums[i]);
}

__device__ inline void combine(const Args& args, const Lists& lists, std::int64_t first_token, int count) {
    const bool vectors = args.rows % 4 == 0;
    const int row_jobs = vectors ? args.rows / 4 : args.rows;
    const std::int64_t total = static_cast<std::int64_t>(count) * row_jobs;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += step) {
        const int token = static_cast<int>(at / row_jobs);
        const int job = static_cast<int>(at - static_cast<std::int64_t>(token) * row_jobs);
        if (vectors)
            combine_columns<4>(args, lists, first_token, token, job * 4);
        else
            combine_columns<1>(args, lists, first_token, token, job);
    }
}

template <class Weights>
__global__ void __launch_bounds__(kWarps * 32, 1) routed_gemm(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    const auto grid = cooperative_groups::this_grid();
    const Warp<Weights> me(shared, args);
    const Lists lists(shared, args);
    auto* const reduce = reinterpret_cast<float*>(shared + args.shared.reduce);
    if (me.lane == 0)
        for (int i = 0; i < Weights::kStages; ++i) ptx::barrier_init(&me.barriers[i], 1);
    ptx::fence_barrier_init();
    RingPlace place;
    const std::int64_t tokens = live_tokens(args.tokens, args.num_tokens);
    for (std::int64_t first = 0; first < tokens; first += args.pass_tokens) {
        const int count = static_cast<int>(min(static_cast<std::int64_t>(args.pass_tokens), tokens - first));
        if (first > 0) grid.sync();  // the products of the last pass have been read
        build_lists(args, lists, shared, first, count, StageLayout<Weights>::kTileRows);
        ptx::fence_shared_async();  // the rings take their place back
        __syncthreads();
        multiply_pass(args, lists, me, place, first, reduce);
        grid.sync();
        combine(args, lists, first, count);
    }
}

template <class Weights>
Instance instance() {
    return {reinterpret_cast<const void*>(&routed_gemm<Weights>),
            kWarps * Weights::kStages * StageLayout<Weights>::kBytes, kWarps * Weights::kStages};
}

}  // namespace tokamak::moe::cuda::routed
