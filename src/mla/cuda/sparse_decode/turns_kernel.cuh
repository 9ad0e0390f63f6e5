// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads per block: eight producer warps and two warpgroups that take blocks of rows
// in turns. See turns.cuh and docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/sparse_decode/gather.cuh"
#include "mla/cuda/sparse_decode/gather_fp8.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"
#include "mla/cuda/sparse_decode/turns_output.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// By the first warp.
__device__ __forceinline__ void init_control(const Params& params, TurnControl& control, bool per_warp, int lane) {
    if (lane < params.shared.stages) {
        ptx::barrier_init(&control.full[lane], TurnControl::kProducers * (per_warp ? 1 : 32));
        ptx::barrier_init(&control.empty[lane], 8);
    }
    if (lane < 2) ptx::barrier_init(&control.published[lane], 4);
    for (int h = lane; h < kTurnHeads; h += 32) {
        control.reference[h] = kNoReference;
        control.top[0][h] = control.top[1][h] = -kInfinity;
    }
    if (lane == 0) control.query_top = 0;
    ptx::fence_barrier_init();
}

/// Each warpgroup takes as many as the other; the last one may have no rows.
__device__ __forceinline__ int turn_blocks(const Columns& columns) { return (columns.blocks() + 1) / 2 * 2; }

template <int Dim, bool Half>
__device__ __forceinline__ void produce_turns(const Params& params, TurnControl& control, std::uint32_t base, int token,
                                              int warp, int lane) {
    const Columns columns = columns_of(params, token, 0);
    const int blocks = turn_blocks(columns);
    if constexpr (Half) {
        Fp8Gather<Dim, TurnControl, false> gather(params, control, base, columns, token, warp, lane);
        start_together<kTurnThreads>();
        gather.run(blocks);
    } else {
        if (params.anywhere)
            gather_any<Dim>(params, control, base + params.shared.ring, columns, token, blocks, warp, lane);
        else
            gather_bf16<Dim>(params, control, base + params.shared.ring, columns, token, blocks, warp, lane);
    }
}

template <int Dim, bool Half>
__device__ __forceinline__ void take_turns(const Params& params, TurnControl& control, unsigned char* shared, int token,
                                           int first_head, int thread) {
    const int warp = __shfl_sync(~0U, thread / 32, 0);
    const int lane = thread % 32;
    if (thread < 32) init_control(params, control, Half, lane);
    const int blocks = turn_blocks(columns_of(params, token, 0));
    start_together<kTurnThreads>();
    const std::uint32_t base = ptx::shared_address(shared);
    const int power = load_queries<Dim, kTurnHeads, Half, kTurnMathThreads>(params, control, base, token, first_head,
                                                                           thread);
    const auto take = [&](auto turns, int group) {
        turns.run(blocks);
        finish_turns<Dim>(params, control, base, {token, first_head, group, warp % 4, lane}, turns.sums, turns.out);
    };
    if (warp < 4)
        take(Turns<Dim, Half, 0>(params, control, shared, warp, lane, power), 0);
    else
        take(Turns<Dim, Half, 1>(params, control, shared, warp - 4, lane, power), 1);
}

template <int Dim, bool Half>
__global__ void __launch_bounds__(kTurnThreads, 1) sparse_decode_turns(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<TurnControl*>(shared + params.shared.control);
    const int token = static_cast<int>(blockIdx.x) / params.head_groups;
    const int first_head = static_cast<int>(blockIdx.x) % params.head_groups * kTurnHeads;
    if (params.num_tokens != nullptr && token >= *params.num_tokens) return;

    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    if (warp >= kTurnMathThreads / 32) {
        ptx::set_registers<kTurnThreads, TurnRegisters<Half>::kProduce>();
        produce_turns<Dim, Half>(params, control, ptx::shared_address(shared), token, warp - kTurnMathThreads / 32,
                                 static_cast<int>(threadIdx.x) % 32);
    } else {
        ptx::set_registers<kTurnThreads, TurnRegisters<Half>::kMath>();
        take_turns<Dim, Half>(params, control, shared, token, first_head, static_cast<int>(threadIdx.x));
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
