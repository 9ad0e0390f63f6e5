// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads per block, for fp8 rows and many tokens: eight producer warps and two
// warpgroups that take blocks of rows in turns. See turns.cuh and docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/sparse_decode/rows.cuh"
#include "mla/cuda/sparse_turns/convert.cuh"
#include "mla/cuda/sparse_turns/output.cuh"
#include "mla/cuda/sparse_turns/queries.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// By the first warp.
__device__ __forceinline__ void init_control(TurnControl& control, int lane) {
    if (lane < 2) {
        ptx::barrier_init(&control.full[lane], kTurnProducers);
        ptx::barrier_init(&control.empty[lane], 8);
        ptx::barrier_init(&control.published[lane], 4);
    }
    for (int h = lane; h < kTurnHeads; h += 32) {
        control.reference[h] = kNoReference;
        control.top[0][h] = control.top[1][h] = -kInfinity;
    }
    if (lane == 0) control.query_top = 0;
    ptx::fence_barrier_init();
}

/// Each warpgroup takes as many as the other; the last one may have no rows.
__device__ __forceinline__ int turn_blocks(const Columns& columns) { return (columns.blocks() + 1) / 2 * 2; }

template <int Dim>
__device__ __forceinline__ void take_turns(const Params& params, TurnControl& control, unsigned char* shared, int token,
                                           int first_head, int thread) {
    const int warp = __shfl_sync(~0U, thread / 32, 0);
    const Target at = {token, first_head, warp / 4, warp % 4, thread % 32};
    const std::uint32_t base = ptx::shared_address(shared);
    const TurnQueries<Dim> queries(base, thread);
    queries.start(params, token, first_head);
    if (thread < 32) init_control(control, at.lane);
    const int blocks = turn_blocks(columns_of(params, token, 0));
    ptx::named_barrier(kStartBarrier, kTurnThreads);
    const int power = queries.finish(control);
    const auto take = [&](auto turns) {
        turns.run(blocks);
        note_sums(control, at, turns.sums);
        finish_whole<Dim>(params, control, base, at, turns.out);
    };
    if (warp < 4)
        take(Turns<Dim, 0>(params, control, shared, at.warp, at.lane, power));
    else
        take(Turns<Dim, 1>(params, control, shared, at.warp, at.lane, power));
}

template <int Dim>
__global__ void __launch_bounds__(kTurnThreads, 1) sparse_turns(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<TurnControl*>(shared + params.shared.control);
    const int token = static_cast<int>(blockIdx.x) / params.head_groups;
    const int first_head = static_cast<int>(blockIdx.x) % params.head_groups * kTurnHeads;
    if (params.num_tokens != nullptr && token >= *params.num_tokens) return;

    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    if (warp >= kTurnMathThreads / 32) {
        ptx::set_registers<kTurnThreads, TurnRegisters::kProduce>();
        const Columns columns = columns_of(params, token, 0);
        RowConverter<Dim> rows(params, control, ptx::shared_address(shared), columns, token,
                               warp - kTurnMathThreads / 32, static_cast<int>(threadIdx.x) % 32);
        ptx::named_barrier(kStartBarrier, kTurnThreads);
        rows.run(turn_blocks(columns));
    } else {
        ptx::set_registers<kTurnThreads, TurnRegisters::kMath>();
        take_turns<Dim>(params, control, shared, token, first_head, static_cast<int>(threadIdx.x));
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
