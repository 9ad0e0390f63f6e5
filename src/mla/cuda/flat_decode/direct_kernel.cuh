// SPDX-License-Identifier: Apache-2.0
// The flat form for fp8 rows of 576: rows are brought as they are and converted in registers, once for the
// scores and once for the values. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/flat_decode/direct_exchange.cuh"
#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/flat_decode/direct_weigh.cuh"
#include "mla/cuda/flat_decode/instances.h"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Named barriers.
enum : int { kRowsBarrier = 1 /* to 4 */, kQueriesBarrier = 5, kQueryWarpsBarrier = 6 };

/// Everything about one block.
template <int M>
class DirectBlock {
    using L = Layout<M>;
    using Control = DirectControl<M>;
    static constexpr int kHeads = 16 * M;

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
        ptx::cluster_wait();  // the others listen
        tell();
        finish();
    }

  private:
    /// Whether this block's token exists. Asked behind the loads that do not depend on it.
    [[nodiscard]] __device__ __forceinline__ bool exists() const {
        return params_.num_tokens == nullptr || token_ < *params_.num_tokens;
    }

    __device__ __forceinline__ bool bring_rows() {
        const Finder<576, true> finder(params_, token_, rank_, row_of(warp_, lane_ % 16), lane_ < 16);
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
        const int i = static_cast<int>(threadIdx.x);
        const int h = i % kHeads;
        const int to = i / kHeads;
        if (to < params_.splits) {
            float sum = 0.0F;
#pragma unroll
            for (int w = 0; w < kDirectWarps; w += 4) {
                const float4 four = *reinterpret_cast<const float4*>(&control_.sum[h][w]);
                sum += (four.x + four.y) + (four.z + four.w);
            }
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
        DirectExchange<M> exchange(params_, control_, base_, rank_, warp_, lane_);
        Output<M> out = {};
        multiply_values<M>(base_, warp_, lane_, out);
        exchange.stage(out);
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) exchange.push();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
        ptx::barrier_wait(&control_.told, 0);
        int item = 4 * warp_;
        exchange.settle(token_, first_head_, item);
        ptx::barrier_wait(&control_.landed, 0);
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        while (item < exchange.items()) {
            exchange.add();
            item += 4 * kDirectWarps;
            if (item < exchange.items()) exchange.settle(token_, first_head_, item);
        }
        __syncwarp();
        ptx::cluster_wait();  // nobody leaves while others still copy out of its memory
    }

    const Params& params_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

template <int M>
__global__ void __launch_bounds__(kDirectThreads, 1) flat_direct(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock<M>(params, shared).run();
}

template <int M>
FlatKernel describe_direct() {
    return {reinterpret_cast<const void*>(&flat_direct<M>), kDirectThreads, kDirectBytes<M>};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
