// SPDX-License-Identifier: Apache-2.0
// Sums of the splits of the flat form.
#pragma once

#include "mla/cuda/flat_decode/products.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// By one thread, before any other block is told that this one listens.
template <int N, int Blocks>
__device__ __forceinline__ void listen(const Params& params, FlatControl<N, Blocks>& control) {
    ptx::barrier_init(&control.told, 1);
    ptx::barrier_init(&control.landed, 1);
    if (params.splits > 1) expect_others<N>(params, control);
    ptx::fence_barrier_init();
}

/// Part i of a warp: 16 of the 64 dimensions of each of its warpgroup's two tiles.
__device__ __forceinline__ int part_of(int warp, int i) { return (2 * (warp / 4) + i) * 4 + warp % 4; }

/// Tells all splits this one's sums: by the `Threads` threads of the warpgroups that have them, behind a barrier of
/// theirs after a head's thread left them here.
template <int N, int Blocks, int Threads>
__device__ __forceinline__ void tell_sums(const Params& params, FlatControl<N, Blocks>& control, int rank) {
    for (int i = static_cast<int>(threadIdx.x); i < N * params.splits; i += Threads) {
        const int to = i / N;
        if (to != rank)
            ptx::store_counted(ptx::address_in(to, &control.sums[rank][i % N]), control.sums[rank][i % N],
                               ptx::address_in(to, &control.told));
    }
}

/// Factors of the parts of all splits, behind the arrival of all sums: sixteen lanes for a head, one for each split.
/// Statistics by the first block.
template <int N, int Blocks>
__device__ __forceinline__ void settle_factors(const Params& params, FlatControl<N, Blocks>& control, int rank,
                                               int token, int first_head) {
    const int h = static_cast<int>(threadIdx.x) / kMostSplits;
    const int source = static_cast<int>(threadIdx.x) % kMostSplits;
    if (h >= N) return;  // whole warps
    float4 own = {kNoReference, 0.0F, -kInfinity, 0.0F};
    if (source < params.splits) own = control.sums[source][h];
    HeadSums all;
    all.reference = own.x;
    all.top = own.z;
#pragma unroll
    for (int step = 1; step < kMostSplits; step *= 2)
        all.reference = max_or_nan(all.reference, __shfl_xor_sync(~0U, all.reference, step));
    if (params.max_logits != nullptr) {
#pragma unroll
        for (int step = 1; step < kMostSplits; step *= 2)
            all.top = max_or_nan(all.top, __shfl_xor_sync(~0U, all.top, step));
    }
    const float weight = own.x == kNoReference ? 0.0F : exp2_fast(own.x - all.reference);
    all.sum = own.y * weight;
#pragma unroll
    for (int step = 1; step < kMostSplits; step *= 2) all.sum += __shfl_xor_sync(~0U, all.sum, step);
    const int head = first_head + h;
    const float sink = head < params.heads ? sink_of(params, head) : -kInfinity;
    control.factor[source][h] = weight * factor_of(all, sink);
    if (source == 0 && rank == 0 && head < params.heads) store_statistics(params, token, head, all, sink);
}

}  // namespace tokamak::mla::cuda::flat_decode
