// SPDX-License-Identifier: Apache-2.0
// The wide decode kernel for few tokens: so many splits that their blocks take the whole chip, which clusters do not.
// All blocks run at once (a cooperative launch), and the splits exchange their sums by way of the caller's workspace.
// See docs/kernels/sparse_mla_wide_few.md.
#pragma once

#include <cooperative_groups.h>

#include "mla/cuda/wide_decode/kernel.cuh"
#include "mla/cuda/wide_decode/published.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Every block clears its own flags and tells the grid when it starts; what is awaited behind the last values is long
/// over then. `marked`: what grid_group::barrier_arrive returned.
template <int Dim>
__device__ __forceinline__ void bring_few(const Params& params, WideControl& control, std::uint32_t base,
                                          const WidePlace& place, int warp, int lane) {
    Bringer<Dim> bringer(params, control, base, place.token, place.rank, warp, lane);
    auto marked = cooperative_groups::this_grid().barrier_arrive();
    int blocks = 0;
    bringer.ask_first(params, place.rank, blocks);
    bringer.run_few(blocks);
    cooperative_groups::this_grid().barrier_wait(std::move(marked));
}

template <int Dim>
__device__ __forceinline__ void score_few(const Params& params, WideControl& control, unsigned char* shared,
                                          const WidePlace& place, const Board& board, unsigned marked, int blocks,
                                          int warp, int lane) {
    const auto grid = cooperative_groups::this_grid();
    const int h = warp * 32 + lane;
    WideScorer<Dim> scorer(params, control, shared, warp, lane);
    ptx::named_barrier(kMathBarrier, kMathThreads);  // queries are there
    ptx::set_registers<kWideThreads, kScoreRegisters>();
    HeadSums sums = scorer.run(blocks);
    const int head = place.first_head + h;
    const bool real = h < kHeads && head < params.heads;
    const float sink = real ? sink_of(params, head) : -kInfinity;
    if (h < kHeads) board.publish(place.rank, h, sums);
    grid.barrier_wait(std::move(marked));
    if (h < kHeads) sums = merge_published(board, control, params.splits, h, sink);
    ptx::named_barrier(kMathBarrier, kMathThreads);
    if (real && place.rank == 0) store_statistics(params, place.token, head, sums, sink);
}

/// What follows the last block is run once before the first, as in `add`.
template <int Dim>
__device__ __forceinline__ void add_few(const Params& params, WideControl& control, unsigned char* shared,
                                        const WidePlace& place, const Board& board, unsigned marked, int blocks,
                                        int warp, int lane) {
    const std::uint32_t base = ptx::shared_address(shared);
    settle_queries<Dim>(params, control, base, warp, lane);
    ptx::set_registers<kWideThreads, kAddRegisters>();
    const int part = warp - 4;
    Sums<kHeads> sums;
    const auto exchange = exchange_of(params, control, base, place.rank);
    const float forth = exchange.forth();
    const float back = exchange.back();
    const auto grid = cooperative_groups::this_grid();
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
        Accumulator<Dim>(control, shared, part, lane).run(pass == 0 ? 0 : blocks, sums);
        board.publish(place.rank, sums, forth, part, lane, pass == 1);
        if (pass == 1) grid.barrier_wait(std::move(marked));
        gather_published(params, control, board, place, back, part, lane, pass == 1,
                         [] { ptx::named_barrier(kMathBarrier, kMathThreads); });
    }
}

template <int Dim>
__global__ void __launch_bounds__(kWideThreads, 1)
    few_decode(const __grid_constant__ Params params, const __grid_constant__ Published published) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<WideControl*>(shared + Layout<Dim>::kControl);
    const int group = over_splits(params, static_cast<int>(blockIdx.x));
    const WidePlace place = {static_cast<int>(blockIdx.x) - group * params.splits,
                             published.first_token + static_cast<int>(blockIdx.y), group * kHeads};
    if (params.num_tokens != nullptr && place.token >= *params.num_tokens) {
        cooperative_groups::this_grid().barrier_arrive();  // the others wait for all blocks
        return;
    }
    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Board board(params, published, static_cast<int>(blockIdx.y) * params.head_groups + group);
    if (warp >= kMathThreads / 32) {
        ptx::set_registers<kWideThreads, kBringRegisters>();
        return bring_few<Dim>(params, control, ptx::shared_address(shared), place, warp - kMathThreads / 32, lane);
    }
    if (warp < 2) init_wide<false>(params, control, place.rank, warp == 0, lane);
    if (warp == 2 || warp == 3) keep_pool(params.pools[warp - 2], control.pools[warp - 2], lane);
    if (warp == 1) board.clear(place.rank, lane);
    if (warp >= 4) copy_queries<Dim>(params, ptx::shared_address(shared), place.token, place.first_head, warp, lane);
    const unsigned marked = cooperative_groups::this_grid().barrier_arrive();
    const int blocks = blocks_of(rows_of(params, share_of(params, place.rank), live_of(params, place.token)));
    if (warp < 4)
        score_few<Dim>(params, control, shared, place, board, marked, blocks, warp, lane);
    else
        add_few<Dim>(params, control, shared, place, board, marked, blocks, warp, lane);
}

}  // namespace tokamak::mla::cuda::wide_decode
