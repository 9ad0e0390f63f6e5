// SPDX-License-Identifier: Apache-2.0
// Sums of the splits of the flat form.
#pragma once

#include "mla/cuda/flat_decode/products.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// By one thread, before any other block is told that this one listens. Its own warps arrive too, when the block's own
/// sums and parts are in their places: nobody has to wait for a barrier of the block.
template <int N, typename Control>
__device__ __forceinline__ void listen(const Params& params, Control& control, int rank, int tellers, int senders) {
    ptx::barrier_init(&control.told, 1 + tellers);
    ptx::barrier_init(&control.landed, 1 + senders);
    expect_others<N>(params, control, rank);
    ptx::fence_barrier_init();
}

/// Part i of a warp: 16 of the 64 dimensions of each of its warpgroup's two tiles.
__device__ __forceinline__ int part_of(int warp, int i) { return (2 * (warp / 4) + i) * 4 + warp % 4; }

/// Tells all splits the sums of this one, by `Threads` threads: one for a head and split. `sum_of(head)`: the sum of
/// its weights over the warps.
template <int N, int Threads, typename Control, typename SumOf>
__device__ __forceinline__ void tell_sums(const Params& params, Control& control, int rank, int thread,
                                          const SumOf& sum_of) {
    for (int i = thread; i < N * params.splits; i += Threads) {
        const int h = i % N;
        const int to = i / N;
        const float4 sums = {control.reference[h], sum_of(h),
                             params.max_logits != nullptr ? control.top[h] : -kInfinity, 0.0F};
        if (to == rank)
            control.sums[rank][h] = sums;
        else
            ptx::store_counted(ptx::address_in(to, &control.sums[rank][h]), sums, ptx::address_in(to, &control.told));
    }
    __syncwarp();
    if (thread % 32 == 0) ptx::barrier_arrive(&control.told);
}

/// Adds the parts that a block owns: a thread two dimensions of a head, eight threads all that the block owns of a part
/// and head. What the parts of the splits are multiplied by is known to these eight, two splits to each.
template <int N, bool Half, typename Control>
class Adder {
    static constexpr int kItems = 8 * N;  ///< of a part

  public:
    __device__ __forceinline__ Adder(const Params& params, Control& control, const Exchange<N, Half, false>& exchange)
        : params_(params), control_(control), exchange_(exchange) {}

    /// Turns to an item.
    __device__ __forceinline__ void take(int token, int first_head, int item) {
        token_ = token;
        item_ = item;
        h_ = item / 8 % N;
        head_ = first_head + h_;
        const int pair = item % 8;
        const int part = item / kItems;
        at_ = exchange_.landing_of(part) + Exchange<N, Half, false>::offset(h_, pair / 4) + pair % 4 * 4;
        dim_ = exchange_.first_dim() + part * 16 + pair * 2;
        sink_ = head_ < params_.heads ? sink_of(params_, head_) : -kInfinity;
    }

    /// Behind the arrival of all sums.
    __device__ __forceinline__ void settle() {
        const int source = item_ % 8 * 2;
        float4 own[2] = {{kNoReference, 0.0F, -kInfinity, 0.0F}, {kNoReference, 0.0F, -kInfinity, 0.0F}};
#pragma unroll
        for (int s = 0; s < 2; ++s)
            if (source + s < params_.splits) own[s] = control_.sums[source + s][h_];
        all_.reference = over_eight(max_or_nan(own[0].x, own[1].x), [](float a, float b) { return max_or_nan(a, b); });
        if (params_.max_logits != nullptr)
            all_.top = over_eight(max_or_nan(own[0].z, own[1].z), [](float a, float b) { return max_or_nan(a, b); });
#pragma unroll
        for (int s = 0; s < 2; ++s) factor_[s] = own[s].x == kNoReference ? 0.0F : exp2_fast(own[s].x - all_.reference);
        all_.sum =
            over_eight(fmaf(own[0].y, factor_[0], own[1].y * factor_[1]), [](float a, float b) { return a + b; });
        const float factor = factor_of(all_, sink_) * exchange_.back();
        factor_[0] *= factor;
        factor_[1] *= factor;
    }

    /// Behind the arrival of all parts.
    __device__ __forceinline__ void add() const {
        float2 sums[1] = {};
        const std::uint32_t step = exchange_.landing_step();
#pragma unroll
        for (int first = 0; first < kMostSplits; first += 8) {
            if (first >= params_.splits) break;
#pragma unroll
            for (int s = 0; s < 8; ++s) {
                const float factor = __shfl_sync(~0U, factor_[s % 2], (first + s) / 2, 8);
                // Behind the last split: of the last one once more, times 0. (A branch for each would cost 700 cycles.)
                const float2 v = exchange_.two_at(at_ + min(first + s, params_.splits - 1) * step);
                sums[0].x = fmaf(v.x, factor, sums[0].x);
                sums[0].y = fmaf(v.y, factor, sums[0].y);
            }
        }
        exchange_.template store<1>(token_, head_, dim_, sums);
    }

    /// By the first block.
    __device__ __forceinline__ void store_sums() const {
        if (item_ < kItems && item_ % 8 == 0 && head_ < params_.heads)
            store_statistics(params_, token_, head_, all_, sink_);
    }

  private:
    template <typename Combine>
    __device__ __forceinline__ static float over_eight(float v, const Combine& combine) {
#pragma unroll
        for (int step = 1; step < 8; step *= 2) v = combine(v, __shfl_xor_sync(~0U, v, step));
        return v;
    }

    const Params& params_;
    Control& control_;
    const Exchange<N, Half, false>& exchange_;
    int token_, h_, head_, item_, dim_;
    std::uint32_t at_;
    float sink_;
    float factor_[2] = {};
    HeadSums all_;
};

}  // namespace tokamak::mla::cuda::flat_decode
