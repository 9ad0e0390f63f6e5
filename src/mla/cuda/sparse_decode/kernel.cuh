// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and N heads per cluster of `splits` blocks, each with its share of the selected rows.
// Producer warps gather and convert rows into a ring of slabs, one warpgroup scores them, two accumulate values; the
// splits are merged through distributed shared memory. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/gather.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Blocks of raw fp8 rows in flight; more where queries leave room.
template <int N>
inline constexpr int kRawBlocks = N <= 16 ? 2 : 1;

/// 64 heads leave too few registers for an equal share.
template <int N>
inline constexpr bool kMovesRegisters = N == 64;
inline constexpr int kScoreRegisters = 80;
inline constexpr int kAccumulateRegisters = 160;
inline constexpr int kProducerRegisters = 40;

/// bf16 queries of N heads as K-major slabs; heads past the last are zero.
template <int Dim, int N>
__device__ __forceinline__ void load_queries(const Params& params, std::uint32_t base, int token, int first_head,
                                             int thread) {
    constexpr int kChunks = Dim / 8;
    const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride;
    for (int i = thread; i < N * kChunks; i += kMathThreads) {
        const int h = i / kChunks;
        const int c = i % kChunks;
        uint4 value = {0, 0, 0, 0};
        if (first_head + h < params.heads) {
            const std::uint16_t* const from = q + (first_head + h) * params.q_head_stride + c * 8;
            if (params.q_vectors) {
                value = *reinterpret_cast<const uint4*>(from);
            } else {
                const auto pair = [from](int p) {
                    return from[2 * p] | static_cast<std::uint32_t>(from[2 * p + 1]) << 16;
                };
                value = {pair(0), pair(1), pair(2), pair(3)};
            }
        }
        store_shared(base + c / 8 * (N * 128) + swizzled(h, c % 8), value);
    }
    ptx::fence_shared_async();
    ptx::named_barrier(kMathBarrier, kMathThreads);
}

template <int N>
__device__ __forceinline__ void init_control(Control<N>& control, int slots, bool per_warp) {
    for (int i = 0; i < slots; ++i) {
        ptx::barrier_init(&control.full[i], kProducerWarps * (per_warp ? 1 : 32));
        ptx::barrier_init(&control.empty[i], 4);
    }
    for (int i = 0; i < 2; ++i) {
        ptx::barrier_init(&control.weights_full[i], 4);
        ptx::barrier_init(&control.weights_empty[i], 8);
    }
    ptx::barrier_init(&control.landed, 1);
    ptx::fence_barrier_init();
}

/// Producer role.
template <int Dim, int N>
__device__ __forceinline__ void produce(const Params& params, Control<N>& control, std::uint32_t base,
                                        const Columns& columns, int token, int blocks, int warp, int lane) {
    if (params.anywhere)
        gather_any<Dim>(params, control, base + params.shared.ring, columns, token, blocks, warp, lane);
    else if (params.any_fp8)
        Fp8Gather<Dim, kRawBlocks<N>, Control<N>>(params, control, base, columns, token, warp, lane).run(blocks);
    else
        gather_bf16<Dim>(params, control, base + params.shared.ring, columns, token, blocks, warp, lane);
}

/// What head threads do after the last block: divisor and statistics, across the splits if there are several.
template <int N>
__device__ __forceinline__ void settle_heads(const Params& params, Control<N>& control, SplitSums<N>* splits, int rank,
                                             int token, int first_head, int h, const HeadSums& own) {
    const int head = first_head + h;
    const HeadSums all = params.splits == 1 ? own : merge_sums(splits, params.splits, h);
    const bool real = head < params.heads;
    const float sink = real ? sink_of(params, head) : kNothing;
    control.factor[h] = factor_of(all, sink, own.reference);
    if (real && rank == 0) store_statistics(params, token, head, all, sink);
}

template <int Dim, int N>
__global__ void __launch_bounds__(kThreads, 1) sparse_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<Control<N>*>(shared + params.shared.control);
    auto* const splits = reinterpret_cast<SplitSums<N>*>(shared + params.shared.statistics);
    const int rank = static_cast<int>(blockIdx.x) % params.splits;
    const int item = static_cast<int>(blockIdx.x) / params.splits;
    const int token = item / params.head_groups;
    const int first_head = item % params.head_groups * N;
    if (params.num_tokens != nullptr && token >= *params.num_tokens) return;  // the whole cluster

    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x < N) control.limit[threadIdx.x] = kNothing;
    if (threadIdx.x == 0) init_control(control, params.shared.slots, params.any_fp8 || params.anywhere);
    const Columns columns = columns_of(params, token, rank);
    const int blocks = (columns.last - columns.first + kRowBlock - 1) / kRowBlock;
    __syncthreads();
    const bool alone = params.splits == 1;
    if (!alone) ptx::cluster_arrive();  // awaited before the first access to another block: by then all have started

    const std::uint32_t base = ptx::shared_address(shared);
    if (warp >= kMathThreads / 32) {
        if constexpr (kMovesRegisters<N>) ptx::give_registers<kProducerRegisters>();
        produce<Dim, N>(params, control, base, columns, token, blocks, warp - kMathThreads / 32, lane);
        if (!alone) {
            __syncwarp();
            ptx::cluster_wait();
            ptx::cluster_arrive();
            ptx::cluster_wait();
        }
    } else if (warp < 4) {
        if constexpr (kMovesRegisters<N>) ptx::give_registers<kScoreRegisters>();
        load_queries<Dim, N>(params, base, token, first_head, static_cast<int>(threadIdx.x));
        Scorer<Dim, N> scorer(params, control, shared, warp, lane);
        const HeadSums own = scorer.run(blocks);
        const int h = static_cast<int>(threadIdx.x);
        if (!alone) {
            __syncwarp();
            ptx::cluster_wait();
            if (h < N) share_sums(splits, rank, params.splits, h, own);
            __syncwarp();
            ptx::cluster_arrive();
            ptx::cluster_wait();
        }
        if (h < N) settle_heads(params, control, splits, rank, token, first_head, h, own);
        ptx::named_barrier(kMathBarrier, kMathThreads);
    } else {
        if constexpr (kMovesRegisters<N>) ptx::take_registers<kAccumulateRegisters>();
        load_queries<Dim, N>(params, base, token, first_head, static_cast<int>(threadIdx.x));
        const Target at = {token, first_head, warp / 4 - 1, warp % 4, lane};
        Sums<N> sums;
        accumulate<Dim, N>(params, control, shared, blocks, at.group, lane, sums);
        if (!alone) {
            __syncwarp();
            ptx::cluster_wait();
            ptx::cluster_arrive();
            ptx::cluster_wait();
        }
        ptx::named_barrier(kMathBarrier, kMathThreads);
        sums.scale(control.factor, lane);
        if (alone) {
#pragma unroll
            for (int i = 0; i < kOwnTiles; ++i) {
                const int tile = 2 * i + at.group;
                store_tile<N>(params, at, tile, sums.tile[i], base + tile * N * 128);
            }
        } else {
            Exchange<N> exchange(params, control, shared, rank, at);
            exchange.stage(sums);
            exchange.push();
            exchange.finish(sums);
        }
    }
    if (!alone) {  // nobody leaves while others still copy out of or into its memory
        __syncwarp();
        ptx::cluster_arrive();
        ptx::cluster_wait();
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
