// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads a block over fp8 rows that are never converted in shared memory: a
// warpgroup brings them, one scores them as the e4m3 numbers that they are, and two add values, converting codes to the
// row operand of wgmma in registers. See docs/kernels/sparse_mla_direct.md.
#pragma once

#include "mla/cuda/wide_decode/bring.cuh"
#include "mla/cuda/wide_decode/output.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Registers of a thread by role: 512 for the four together.
inline constexpr int kScoreRegisters = 136;
inline constexpr int kAddRegisters = 168;
inline constexpr int kBringRegisters = 40;

__device__ __forceinline__ void start_wide() { ptx::named_barrier(kStartBarrier, kWideThreads); }

/// By two warps.
__device__ __forceinline__ void init_wide(const Params& params, WideControl& control, int rank, bool first, int lane) {
    if (!first) {
        for (int h = lane; h < kHeads; h += 32) control.reference[h] = 0.0F;  // nothing to subtract yet
        return;
    }
    if (lane == 0) {
#pragma unroll
        for (int stage = 0; stage < kRing; ++stage) {
            ptx::barrier_init(&control.full[stage], kBringers);
            ptx::barrier_init(&control.settled[stage], 4);
#pragma unroll
            for (int rows = 0; rows < 4; ++rows) ptx::barrier_init(&control.read[stage][rows], 8);
        }
#pragma unroll
        for (int buffer = 0; buffer < kWideBuffers; ++buffer) {
            ptx::barrier_init(&control.weights_full[buffer], 4);
            ptx::barrier_init(&control.weights_empty[buffer], 8);
        }
        ptx::barrier_init(&control.counted, 4);
        ptx::barrier_init(&control.told, 1);
        ptx::barrier_init(&control.landed, 1);
        if (params.splits > 1) expect_others<kHeads>(params, control, rank);
    }
    ptx::fence_barrier_init();
}

/// By a warp, while those who need them next wait for indices.
__device__ __forceinline__ void keep_pool(const PoolParams& pool, PoolParams& kept, int lane) {
    static_assert(sizeof(PoolParams) == 128);
    reinterpret_cast<std::uint32_t*>(&kept)[lane] = reinterpret_cast<const std::uint32_t*>(&pool)[lane];
}

__device__ __forceinline__ Exchange<kHeads, true, false> exchange_of(const Params& params, WideControl& control,
                                                                     std::uint32_t base, int rank) {
    return {params, {base, base, &control.landed}, rank, kPatienceBits};
}

/// The cluster meets twice. First when everybody's last scores are done: queries give way to parts of other splits,
/// sums are told. Then when all parts have landed: nobody leaves while others still copy to its memory or out of it.
__device__ __forceinline__ void meet() {
    __syncwarp();
    ptx::cluster_arrive_relaxed();
}

template <int Dim>
__device__ __forceinline__ void bring(const Params& params, WideControl& control, std::uint32_t base,
                                      const WidePlace& place, int warp, int lane) {
    Bringer<Dim> bringer(params, control, base, place.token, place.rank, warp, lane);
    const int blocks = blocks_of(rows_of(params, share_of(params, place.rank), bringer.live()));
    start_wide();
    if (params.splits > 1) meet();
    bringer.run(blocks);
    if (params.splits == 1) return;
    __syncwarp();
    ptx::cluster_wait();
    meet();
}

/// Then a head's thread has its sums merged with those of the other splits.
template <int Dim>
__device__ __forceinline__ void score(const Params& params, WideControl& control, unsigned char* shared,
                                      const WidePlace& place, int blocks, int warp, int lane) {
    const std::uint32_t base = ptx::shared_address(shared);
    const int h = warp * 32 + lane;
    ptx::set_registers<kWideThreads, kScoreRegisters>();
    WideScorer<Dim> scorer(params, control, shared, warp, lane);
    ptx::named_barrier(kMathBarrier, kMathThreads);  // queries are there
    HeadSums sums = scorer.run(blocks);
    const int head = place.first_head + h;
    const bool real = h < kHeads && head < params.heads;
    const float sink = real ? sink_of(params, head) : -kInfinity;
    if (params.splits == 1) {
        if (h < kHeads) control.factor[h] = factor_of(sums, sink);
    } else {
        meet();
        ptx::cluster_wait();
        if (h < kHeads) share_sums<kHeads, false>(control, control.splits, place.rank, params.splits, h, sums);
        meet();
        ptx::barrier_wait(&control.told, 0);
        if (h < kHeads) sums = merge_splits(control, params.splits, h, sink);
    }
    ptx::named_barrier(kMathBarrier, kMathThreads);
    if (real && place.rank == 0) store_statistics(params, place.token, head, sums, sink);
}

/// Adds values, and brings the sums to the caller's output. What follows the last block is run once more before the
/// first, without effect: code that runs once takes as long to be fetched as to be run, and here is time.
template <int Dim>
__device__ __forceinline__ void add(const Params& params, WideControl& control, unsigned char* shared,
                                    const WidePlace& place, int blocks, int warp, int lane) {
    const std::uint32_t base = ptx::shared_address(shared);
    settle_queries<Dim>(params, control, base, warp, lane);
    ptx::set_registers<kWideThreads, kAddRegisters>();
    const int part = warp - 4;
    Sums<kHeads> sums;
    if (params.splits == 1) {
        Accumulator<Dim>(control, shared, part, lane).run(blocks, sums);
        ptx::named_barrier(kMathBarrier, kMathThreads);
        sums.scale(control.factor, lane);
        return store_sums(params, sums, place.token, place.first_head, part, lane);
    }
    const Sender<Dim> sender(params, control, base, place.rank, blocks, part);
    const auto exchange = exchange_of(params, control, base, place.rank);
    const float factor = exchange.forth();
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
        Accumulator<Dim>(control, shared, part, lane).run(pass == 0 ? 0 : blocks, sums);
        ptx::named_barrier(kAccumulateBarrier, 256);  // nobody reads the blocks before the last any more
        stage_sums(sums, factor, pass == 0 ? ptx::shared_address(control.splits) : sender.place(lane), lane);
        ptx::fence_shared_async();
        __syncwarp();
        if (pass == 1) {
            ptx::cluster_wait();
            if (ptx::elect_lane()) sender.push();
            __syncwarp();
            ptx::named_barrier(kMathBarrier, kMathThreads);
            ptx::barrier_wait(&control.landed, 0);
            __syncwarp();
        }
        ptx::cluster_arrive_relaxed();
        add_parts(params, control, exchange, place, pass == 0 ? kMathThreads - kScorers : kPartItems * exchange.parts(),
                  pass == 1);
    }
}

template <int Dim>
__global__ void __launch_bounds__(kWideThreads, 1) wide_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<WideControl*>(shared + Layout<Dim>::kControl);
    const int group = over_splits(params, static_cast<int>(blockIdx.x));
    const WidePlace place = {static_cast<int>(blockIdx.x) - group * params.splits,
                             static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y), group * kHeads};
    if (gridDim.z > 1 && place.token >= params.tokens) return;
    if (params.num_tokens != nullptr && place.token >= *params.num_tokens) return;  // the whole cluster
    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);       // uniform, and known to be
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (warp >= kMathThreads / 32) {
        ptx::set_registers<kWideThreads, kBringRegisters>();
        bring<Dim>(params, control, ptx::shared_address(shared), place, warp - kMathThreads / 32, lane);
    } else {
        if (warp < 2) init_wide(params, control, place.rank, warp == 0, lane);
        if (warp == 2 || warp == 3) keep_pool(params.pools[warp - 2], control.pools[warp - 2], lane);
        const std::uint32_t base = ptx::shared_address(shared);
        if (warp >= 4) copy_queries<Dim>(params, base, place.token, place.first_head, warp, lane);
        const int blocks = blocks_of(rows_of(params, share_of(params, place.rank), live_of(params, place.token)));
        start_wide();
        if (warp < 4)
            score<Dim>(params, control, shared, place, blocks, warp, lane);
        else
            add<Dim>(params, control, shared, place, blocks, warp, lane);
    }
    if (params.splits > 1) {
        __syncwarp();
        ptx::cluster_wait();
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
