// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and N heads per cluster of `splits` blocks, each with its share of the selected rows.
// Producer warps gather and convert rows into a ring of slabs, one warpgroup scores them, two accumulate values; the
// splits are merged through distributed shared memory. Rows in fp8 become f16 (Half), rows in bf16 stay what they are.
// See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/gather.cuh"
#include "mla/cuda/sparse_decode/gather_fp8.cuh"
#include "mla/cuda/sparse_decode/output.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Registers of a thread by role: a multiprocessor's 65536, in shares that its launch with kThreads<N> allows.
template <int N>
struct Registers {
    static constexpr int kScore = N == 64 ? 88 : N == 32 ? 80 : 72;
    static constexpr int kAccumulate = N == 64 ? 160 : N == 32 ? 96 : 72;
    static constexpr int kProduce = N == 64 ? 104 : N == 32 ? 104 : 128;
};

/// Where this block stands: its cluster's token and heads, and its share of the rows.
struct Place {
    int rank, token, first_head;
};

/// By the first warp.
template <int N, bool Pair>
__device__ __forceinline__ void init_control(const Params& params, Control<N>& control, bool per_warp, int rank,
                                             int lane) {
    if (lane < params.shared.stages) {
        ptx::barrier_init(&control.full[lane], kProducerWarps<N> * (per_warp ? 1 : 32));
        ptx::barrier_init(&control.empty[lane], 8 * kTogether<Pair>);
        ptx::barrier_init(&control.first_empty[lane], 4);
    }
    if (lane < kWeightBuffers<N>) {
        ptx::barrier_init(&control.weights_full[lane], 4);
        ptx::barrier_init(&control.weights_empty[lane], 8);
    }
    for (int h = lane; h < N; h += 32) control.reference[h] = 0.0F;  // nothing to subtract yet
    if (lane == 0) {
        control.query_top = 0;
        ptx::barrier_init(&control.told, 1);
        ptx::barrier_init(&control.landed, 1);
        if (params.splits > 1) expect_others<N>(params, control, rank);
    }
    ptx::fence_barrier_init();
}

/// Producer role. The first indices are on their way while the barriers are made.
template <int Dim, int N, bool Half, bool Pair>
__device__ __forceinline__ void produce(const Params& params, Control<N>& control, std::uint32_t base,
                                        const Place& place, int warp, int lane) {
    const Columns columns = columns_of(params, place.token, place.rank);
    const int blocks = columns.blocks();
    if constexpr (Half) {
        Fp8Gather<Dim, N, Pair> gather(params, control, base, columns, place.token, warp, lane);
        start_together<N>();
        if constexpr (Pair) ptx::cluster_arrive_relaxed();
        gather.run(blocks);
    } else {
        if (params.anywhere)
            gather_any<Dim, N>(params, control, base + params.shared.ring, columns, place.token, blocks, warp, lane);
        else
            gather_bf16<Dim, N>(params, control, base + params.shared.ring, columns, place.token, blocks, warp, lane);
    }
    __syncwarp();
    if (Pair || params.splits > 1) ptx::cluster_arrive_relaxed();
    if (params.splits == 1) return;
    ptx::cluster_wait();
    ptx::cluster_arrive_relaxed();
}

template <int N, bool Half, bool Pair>
__device__ __forceinline__ Exchange<N, Half, Pair> exchange_of(const Params& params, Control<N>& control,
                                                               unsigned char* shared, const Place& place) {
    const std::uint32_t base = ptx::shared_address(shared);
    return {params, {base, base + params.shared.landing, &control.landed}, place.rank, kPatienceBits};
}

/// Scoring role; then a head's thread has its sums merged with those of the other splits.
template <int Dim, int N, bool Half, bool Pair>
__device__ __forceinline__ void score(const Params& params, Control<N>& control, unsigned char* shared,
                                      SplitSums<N>* splits, const Place& place, int warp, int lane) {
    const int h = warp * 32 + lane;
    if (warp == 0) init_control<N, Pair>(params, control, Half, place.rank, lane);
    const int blocks = columns_of(params, place.token, place.rank).blocks();
    start_together<N>();
    if constexpr (Pair) ptx::cluster_arrive_relaxed();
    const int power =
        load_queries<Dim, N, Half>(params, control, ptx::shared_address(shared), place.token, place.first_head, h);
    Scorer<Dim, N, Half, Pair> scorer(params, control, shared, warp, lane, power);
    if constexpr (Pair) ptx::cluster_wait();
    HeadSums sums = scorer.run(blocks);
    const int head = place.first_head + h;
    const bool real = h < N && head < params.heads;
    const float sink = real ? sink_of(params, head) : -kInfinity;
    __syncwarp();
    if constexpr (Pair)
        ptx::cluster_arrive();  // behind what the scorer lets go
    else if (params.splits > 1)
        ptx::cluster_arrive_relaxed();
    if (params.splits == 1) {
        if (h < N) control.factor[h] = factor_of(sums, sink);
    } else {
        ptx::cluster_wait();
        if (h < N) share_sums<N, Pair>(control, splits, place.rank, params.splits, h, sums);
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        ptx::barrier_wait(&control.told, 0);
        if (h < N) sums = merge_sums(splits, params.splits, h, sink);
    }
    ptx::named_barrier(kMathBarrier, kMathThreads);
    if (real && place.rank == 0) store_statistics(params, place.token, head, sums, sink);
    if (params.splits == 1) return;
    ptx::barrier_wait(&control.landed, 0);
    exchange_of<N, Half, Pair>(params, control, shared, place)
        .template finish<kMathThreads>(place.token, place.first_head,
                                       [&](int source, int head_of) { return splits[source].head[head_of].x; });
}

/// Accumulating role, and the way of the sums to the caller's output.
template <int Dim, int N, bool Half, bool Pair>
__device__ __forceinline__ void sum_values(const Params& params, Control<N>& control, unsigned char* shared,
                                           const SplitSums<N>* splits, const Place& place, int warp, int lane) {
    const int blocks = columns_of(params, place.token, place.rank).blocks();
    start_together<N>();
    if constexpr (Pair) ptx::cluster_arrive_relaxed();
    const std::uint32_t base = ptx::shared_address(shared);
    (void)load_queries<Dim, N, Half>(params, control, base, place.token, place.first_head,
                                     static_cast<int>(threadIdx.x));
    const Target at = {place.token, place.first_head, warp / 4 - 1, warp % 4, lane};
    Sums<N> sums;
    if constexpr (Pair) ptx::cluster_wait();
    accumulate<Dim, N, Half, Pair>(params, control, shared, blocks, at.group, lane, sums);
    __syncwarp();
    if constexpr (Pair)
        ptx::cluster_arrive();  // behind the stages let go: nobody leaves while others still tell it so
    else if (params.splits > 1)
        ptx::cluster_arrive_relaxed();
    if (params.splits == 1) {
        ptx::named_barrier(kMathBarrier, kMathThreads);
        sums.scale(control.factor, lane);
#pragma unroll
        for (int i = 0; i < kOwnTiles; ++i) {
            const int tile = own_tile<Dim>(i, at.group);
            store_tile<N>(params, at, tile, sums.tile[i], base + tile * N * 128);
        }
        return;
    }
    ptx::named_barrier(kAccumulateBarrier, 256);  // both warpgroups are done with the ring
    const Exchange<N, Half, Pair> exchange = exchange_of<N, Half, Pair>(params, control, shared, place);
    const auto part = [&at](int i) { return own_tile<Dim>(i, at.group) * 4 + at.warp; };
#pragma unroll
    for (int i = 0; i < kOwnTiles; ++i) exchange.stage(sums.tile[i], part(i), lane);
    ptx::fence_shared_async();
    __syncwarp();
    ptx::cluster_wait();
    if (lane < kOwnTiles) exchange.push(part(lane));
    __syncwarp();
    ptx::named_barrier(kMathBarrier, kMathThreads);
    ptx::barrier_wait(&control.landed, 0);
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    exchange.template finish<kMathThreads>(place.token, place.first_head,
                                           [&](int source, int h) { return splits[source].head[h].x; });
}

template <int Dim, int N, bool Half, bool Pair>
__global__ void __launch_bounds__(kThreads<N>, 1) sparse_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<Control<N>*>(shared + params.shared.control);
    auto* const splits = reinterpret_cast<SplitSums<N>*>(shared + params.shared.statistics);
    const int pair = static_cast<int>(blockIdx.x) / kTogether<Pair>;
    const int item = over_splits(params, pair);
    const Place place = {pair - item * params.splits, item / params.head_groups,
                         (item % params.head_groups * kTogether<Pair> + (Pair ? pair_half() : 0)) * N};
    if (params.num_tokens != nullptr && place.token >= *params.num_tokens) return;  // the whole cluster

    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (warp >= kMathThreads / 32) {
        ptx::set_registers<kThreads<N>, Registers<N>::kProduce>();
        produce<Dim, N, Half, Pair>(params, control, ptx::shared_address(shared), place, warp - kMathThreads / 32,
                                    lane);
    } else if (warp < 4) {
        ptx::set_registers<kThreads<N>, Registers<N>::kScore>();
        score<Dim, N, Half, Pair>(params, control, shared, splits, place, warp, lane);
    } else {
        ptx::set_registers<kThreads<N>, Registers<N>::kAccumulate>();
        sum_values<Dim, N, Half, Pair>(params, control, shared, splits, place, warp, lane);
    }
    if (Pair || params.splits > 1) {  // nobody leaves while others still copy to its memory or out of it
        __syncwarp();
        ptx::cluster_wait();
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
