// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads per block: eight producer warps and two warpgroups that take blocks of
// rows in turns. See turns.cuh and docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/sparse_decode/gather.cuh"
#include "mla/cuda/sparse_decode/gather_fp8.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/turns_exchange.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// By the first warp.
__device__ __forceinline__ void init_control(const Params& params, TurnControl& control, bool per_warp, int lane) {
    if (lane < params.shared.stages) {
        ptx::barrier_init(&control.full[lane], TurnControl::kProducers * (per_warp ? 1 : 32));
        ptx::barrier_init(&control.empty[lane], 4);
    }
    if (lane < 2) ptx::barrier_init(&control.published[lane], 4);
    for (int h = lane; h < kTurnHeads; h += 32) {
        control.reference[h] = kNoReference;
        control.top[0][h] = control.top[1][h] = -kInfinity;
    }
    if (lane == 0) {
        control.query_top = 0;
        ptx::barrier_init(&control.told, 1);
        ptx::barrier_init(&control.landed, 1);
        if (params.splits > 1) expect_others<kTurnHeads>(params, control);
    }
    ptx::fence_barrier_init();
}

/// Each warpgroup takes as many as the other; the last one may have no rows.
__device__ __forceinline__ int turn_blocks(const Columns& columns) { return (columns.blocks() + 1) / 2 * 2; }

/// Where this block stands: its share of the rows, its token and heads.
struct TurnPlace {
    int rank, token, first_head;
};

template <bool Half>
__device__ __forceinline__ void produce_turns(const Params& params, TurnControl& control, std::uint32_t base,
                                              const TurnPlace& place, int warp, int lane) {
    const Columns columns = columns_of(params, place.token, place.rank);
    const int blocks = turn_blocks(columns);
    if constexpr (Half) {
        Fp8Gather<kTurnDim, TurnControl, false> gather(params, control, base, columns, place.token, warp, lane);
        start_together<kTurnThreads>();
        gather.run(blocks);
    } else {
        if (params.anywhere)
            gather_any<kTurnDim>(params, control, base + params.shared.ring, columns, place.token, blocks, warp, lane);
        else
            gather_bf16<kTurnDim>(params, control, base + params.shared.ring, columns, place.token, blocks, warp, lane);
    }
    if (params.splits == 1) return;
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();
    ptx::cluster_arrive_relaxed();
}

/// Merges the splits' sums: thread h of the block those of head h, then every thread its tiles.
__device__ __forceinline__ void finish_split(const Params& params, TurnControl& control, unsigned char* shared,
                                             const TurnPlace& place, const Target& at, float (&out)[32][4]) {
    auto* const splits = reinterpret_cast<SplitSums<kTurnHeads>*>(shared + params.shared.statistics);
    const int h = static_cast<int>(threadIdx.x);
    ptx::cluster_arrive_relaxed();
    TurnExchange exchange(params, control, shared, place.rank, at);
    exchange.stage(out);
    ptx::cluster_wait();
    exchange.push();
    if (h < kTurnHeads) {
        share_sums<kTurnHeads, false>(control, splits, place.rank, params.splits, h, turn_sums(control, h));
        ptx::barrier_wait(&control.told, 0);
        const int head = place.first_head + h;
        const bool real = head < params.heads;
        const float sink = real ? sink_of(params, head) : -kInfinity;
        const HeadSums all = merge_sums(splits, params.splits, h, sink);
        if (real && place.rank == 0) store_statistics(params, place.token, head, all, sink);
    }
    ptx::named_barrier(kBothBarrier, kTurnMathThreads);
    ptx::barrier_wait(&control.landed, 0);
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    exchange.finish(out, splits);
}

template <bool Half>
__device__ __forceinline__ void take_turns(const Params& params, TurnControl& control, unsigned char* shared,
                                           const TurnPlace& place, int thread) {
    const int warp = __shfl_sync(~0U, thread / 32, 0);
    const Target at = {place.token, place.first_head, warp / 4, warp % 4, thread % 32};
    if (thread < 32) init_control(params, control, Half, at.lane);
    const int blocks = turn_blocks(columns_of(params, place.token, place.rank));
    start_together<kTurnThreads>();
    const std::uint32_t base = ptx::shared_address(shared);
    const int power = load_queries<kTurnDim, kTurnHeads, Half, kTurnMathThreads>(params, control, base, place.token,
                                                                                 place.first_head, thread);
    const auto take = [&](auto turns) {
        turns.run(blocks);
        note_sums(control, at, turns.sums);
        if (params.splits == 1)
            finish_whole(params, control, base, at, turns.out);
        else
            finish_split(params, control, shared, place, at, turns.out);
    };
    if (warp < 4)
        take(Turns<Half, 0>(params, control, shared, at.warp, at.lane, power));
    else
        take(Turns<Half, 1>(params, control, shared, at.warp, at.lane, power));
}

template <bool Half>
__global__ void __launch_bounds__(kTurnThreads, 1) sparse_decode_turns(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<TurnControl*>(shared + params.shared.control);
    const int item = static_cast<int>(blockIdx.x) / params.splits;
    const TurnPlace place = {static_cast<int>(blockIdx.x) % params.splits, item / params.head_groups,
                             item % params.head_groups * kTurnHeads};
    if (params.num_tokens != nullptr && place.token >= *params.num_tokens) return;  // the whole cluster

    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    if (warp >= kTurnMathThreads / 32) {
        ptx::set_registers<kTurnThreads, TurnRegisters::kProduce>();
        produce_turns<Half>(params, control, ptx::shared_address(shared), place, warp - kTurnMathThreads / 32,
                            static_cast<int>(threadIdx.x) % 32);
    } else {
        ptx::set_registers<kTurnThreads, TurnRegisters::kMath>();
        take_turns<Half>(params, control, shared, place, static_cast<int>(threadIdx.x));
    }
    if (params.splits > 1) {  // nobody leaves while others still copy to its memory or out of it
        __syncwarp();
        ptx::cluster_wait();
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
