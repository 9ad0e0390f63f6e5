// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads a block over fp8 rows that are never converted in shared memory: a
// warpgroup brings them as they are, one scores them and two add values, each converting what it reads to the row
// operand of wgmma in registers. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/wide_decode/bring.cuh"
#include "mla/cuda/wide_decode/output.cuh"
#include "mla/cuda/wide_decode/queries.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Registers of a thread by role: 512 for the four together.
inline constexpr int kScoreRegisters = 120;
inline constexpr int kAddRegisters = 176;
inline constexpr int kBringRegisters = 40;

__device__ __forceinline__ void start_wide() { ptx::named_barrier(kStartBarrier, kWideThreads); }

__device__ __forceinline__ void init_wide(WideControl& control, int lane) {
    if (lane < kRing) {
        ptx::barrier_init(&control.full[lane], kBringers + 4);
        ptx::barrier_init(&control.empty[lane], 8);
    }
    if (lane == 0) {
        ptx::barrier_init(&control.weights_full[0], 4);
        ptx::barrier_init(&control.weights_empty[0], 8);
        control.query_top = 0;
    }
    for (int h = lane; h < kHeads; h += 32) control.reference[h] = 0.0F;  // nothing to subtract yet
    ptx::fence_barrier_init();
}

template <int Dim>
__global__ void __launch_bounds__(kWideThreads, 1) wide_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<WideControl*>(shared + Layout<Dim>::kControl);
    const int token = static_cast<int>(blockIdx.x) / params.head_groups;
    const int first_head = static_cast<int>(blockIdx.x) % params.head_groups * kHeads;
    if (params.num_tokens != nullptr && token >= *params.num_tokens) return;
    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::uint32_t base = ptx::shared_address(shared);
    const Columns columns = columns_of(params, token, 0);
    const int blocks = columns.blocks();
    if (warp >= 12) {
        ptx::set_registers<kWideThreads, kBringRegisters>();
        Bringer<Dim> bringer(params, control, base, columns, token, warp - 12, lane);
        start_wide();
        bringer.run(blocks);
    } else if (warp < 4) {
        if (warp == 0) init_wide(control, lane);
        start_wide();
        const int power = WideQueries<Dim>::load(params, control, base, token, first_head, warp * 32 + lane);
        ptx::set_registers<kWideThreads, kScoreRegisters>();
        WideScorer<Dim> scorer(params, control, shared, warp, lane, power);
        const HeadSums sums = scorer.run(blocks);
        const int h = warp * 32 + lane;
        const int head = first_head + h;
        const bool real = h < kHeads && head < params.heads;
        const float sink = real ? sink_of(params, head) : -kInfinity;
        if (h < kHeads) control.factor[h] = factor_of(sums, sink);
        ptx::named_barrier(kMathBarrier, kMathThreads);
        if (real) store_statistics(params, token, head, sums, sink);
    } else {
        start_wide();
        (void)WideQueries<Dim>::load(params, control, base, token, first_head, warp * 32 + lane);
        ptx::set_registers<kWideThreads, kAddRegisters>();
        Sums<kHeads> sums;
        Accumulator<Dim> accumulator(control, shared, warp - 4, lane);
        accumulator.run(blocks, sums);
        ptx::named_barrier(kMathBarrier, kMathThreads);
        sums.scale(control.factor, lane);
        store_sums(params, sums, token, first_head, warp - 4, lane);
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
