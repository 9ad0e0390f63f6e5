// SPDX-License-Identifier: Apache-2.0
// The flat form for fp8 rows of 576: rows are brought as they are and converted in registers, once for the
// scores and once for the values. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/flat_decode/direct_values.cuh"
#include "mla/cuda/flat_decode/direct_weigh.cuh"
#include "mla/cuda/flat_decode/instances.h"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Named barriers.
enum : int { kRowsBarrier = 1 /* and 2 */, kPairBarrier = 3 /* to 6 */, kQueriesBarrier = 7, kQueryWarpsBarrier = 8 };

template <int M>
class DirectBlock {
    using L = Layout<M>;
    using Control = DirectControl<M>;
    static constexpr int kHeads = 16 * M;
    using OwnExchange = Exchange<kHeads, true, false>;
    using OwnAdder = Adder<kHeads, true, Control>;
    /// Sums of a head's codes times weights are below 2^16 times this power, over rows.
    static constexpr int kWeightBits = -6;

  public:
    __device__ __forceinline__ DirectBlock(const Params& params, unsigned char* shared)
        : params_(params),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<Control*>(shared + L::kControl)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        token_ = over_splits(params, static_cast<int>(blockIdx.x));
        rank_ = static_cast<int>(blockIdx.x) - token_ * params.splits;
        first_head_ = static_cast<int>(blockIdx.y) * kHeads;
    }

    __device__ __forceinline__ void run() {
        if (!(warp_ < kRowWarps ? bring_rows() : bring_queries())) return;  // the whole cluster
        Tile<M> score = {};
        score_rows(score);
        DirectWeigher<M>(params_, control_, base_, warp_, lane_).weigh(score);
        __syncthreads();
        __syncwarp();
        ptx::cluster_wait();
        ptx::cluster_arrive_relaxed();  // parts may land in place of the tails
        tell();
        finish();
    }

  private:
    /// Whether this block's token exists. Asked behind the loads that do not depend on it.
    [[nodiscard]] __device__ __forceinline__ bool exists() const {
        return params_.num_tokens == nullptr || token_ < *params_.num_tokens;
    }

    __device__ __forceinline__ bool bring_rows() {
        const Finder<576, true> finder(params_, token_, rank_, row_of(warp_, lane_), true);
        if (!exists()) return false;
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        copy_rows(params_, control_, base_, Found(finder), warp_, lane_);
        ptx::named_barrier(kQueriesBarrier, kDirectThreads);
        return true;
    }

    __device__ __forceinline__ bool bring_queries() {
        DirectQueries<M> queries(warp_ - kRowWarps, lane_);
        queries.load(params_, token_, first_head_);
        if (threadIdx.x == kDirectThreads - 1) listen<kHeads>(params_, control_, rank_, kDirectWarps, kDirectWarps);
        if (!exists()) return false;
        __syncwarp();
        ptx::cluster_arrive_relaxed();  // sums may be told
        queries.store(params_, control_, base_);
        named_barrier_arrive(kQueriesBarrier, kDirectThreads);
        ptx::named_barrier(kQueryWarpsBarrier, kDirectThreads - 32 * kRowWarps);
        return true;
    }

    __device__ __forceinline__ void score_rows(Tile<M>& score) const {
        const Scorer<M> scorer(params_, control_, base_, warp_, lane_);
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            if (half == 0)
                ptx::copy_wait<1>();
            else
                ptx::copy_wait<0>();
            __syncthreads();
            scorer.score(half, score);
        }
        ptx::named_barrier(kRowsBarrier + warp_ / 4, 128);
        scorer.add_shares(warp_, score);
    }

    /// Tells all splits the sums of this one: a thread for a head and split.
    __device__ __forceinline__ void tell() const {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < kHeads * params_.splits; i += kDirectThreads) {
            const int h = i % kHeads;
            const int to = i / kHeads;
            const float4 a = load_float4(base_ + sum_at(h, 0));
            const float4 b = load_float4(base_ + sum_at(h, 4));
            const float sum = ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
            const float4 sums = {control_.reference[h], sum,
                                 params_.max_logits != nullptr ? control_.top[h] : -kInfinity, 0.0F};
            if (to == rank_)
                control_.sums[rank_][h] = sums;
            else
                ptx::store_counted(ptx::address_in(to, &control_.sums[rank_][h]), sums,
                                   ptx::address_in(to, &control_.told));
        }
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.told);
    }

    __device__ __forceinline__ void finish() const {
        const OwnExchange exchange(params_, {0, base_ + L::kLanding, &control_.landed}, rank_, kWeightBits);
        OwnAdder adder(params_, control_, exchange);
        int item = static_cast<int>(threadIdx.x);
        adder.take(token_, first_head_, item);
        send(exchange);
        const int items = kHeads * 8 * exchange.parts();
        ptx::barrier_wait(&control_.told, 0);
        adder.settle();
        ptx::barrier_wait(&control_.landed, 0);
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        if (item < items) adder.add();
        if (rank_ == 0) adder.store_sums();
        for (item += kDirectThreads; item < items; item += kDirectThreads) {
            adder.take(token_, first_head_, item);
            adder.settle();
            adder.add();
        }
        __syncwarp();
        ptx::cluster_wait();  // nobody leaves while others still copy out of its memory
    }

    __device__ __forceinline__ void send(const OwnExchange& exchange) const {
        Output<M> out = {};
        multiply_values<M>(base_, warp_, lane_, out);
        ptx::named_barrier(kPairBarrier + warp_ / 2, 64);
        const Sender<M> sender(params_, control_, base_, rank_, warp_, lane_);
        sender.stage(out, exchange.forth());
        ptx::fence_shared_async();
        __syncwarp();
        ptx::cluster_wait();
        if (ptx::elect_lane()) sender.push();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
    }

    const Params& params_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

template <int M>
__global__ void __launch_bounds__(kDirectThreads, M == 1 ? 2 : 1) flat_direct(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock<M>(params, shared).run();
}

template <int M>
FlatKernel describe_direct() {
    return {reinterpret_cast<const void*>(&flat_direct<M>), kDirectThreads, kDirectBytes<M>};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
