// SPDX-License-Identifier: Apache-2.0
// The flat form for fp8 rows of 576: rows are brought as they are and converted in registers, once for the scores and
// once for the values. Sixteen warps do the mathematics, four bring rows and settle sums. See
// docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/flat_decode/direct_exchange.cuh"
#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/flat_decode/direct_weigh.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Everything about one block.
class DirectBlock {
    using L = Layout;
    using Control = DirectControl;

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
        if (warp_ < kDirectWarps)
            calculate();
        else
            help();
        __syncwarp();
        ptx::cluster_wait();  // nobody leaves while others still copy out of its memory
    }

  private:
    /// Behind the first loads, which do not depend on it: makes the barriers known, to the whole cluster a little
    /// later.
    __device__ __forceinline__ void begin() const {
        __syncthreads();
        ptx::cluster_arrive_relaxed();
    }
    [[nodiscard]] __device__ __forceinline__ bool exists() const {
        return params_.num_tokens == nullptr || token_ < *params_.num_tokens;
    }

    __device__ __forceinline__ void listen_all() const {
        for (auto& barrier : control_.rows) ptx::barrier_init(&barrier, kHelperThreads);
        ptx::barrier_init(&control_.described, kHelperWarps);
        ptx::barrier_init(&control_.settled, kHelperWarps);
        listen<kHeads>(params_, control_, rank_, kHelperWarps, kDirectWarps);
    }

    __device__ __forceinline__ void calculate() const {
        DirectQueries queries(warp_, lane_);
        queries.load(params_, token_, first_head_);
        if (threadIdx.x == 0) listen_all();
        begin();
        if (!exists()) return;
        queries.store(params_, control_, base_);
        DirectExchange exchange(params_, control_, base_, rank_, warp_, lane_);
        exchange.take(token_, first_head_);
        ptx::cluster_wait();  // here, where there is time: it empties the cache, which holds up shared memory
        ptx::named_barrier(kMainBarrier, kMainThreads);
        Tile score = {};
        score_rows(score);
        ptx::barrier_wait(&control_.described, 0);
        DirectWeigher(params_, control_, base_, warp_, lane_).weigh(score);
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        send(exchange);
        ptx::barrier_wait(&control_.settled, 0);
        ptx::barrier_wait(&control_.landed, 0);
        leave();
        exchange.add();
    }

    /// Everything that others copy out of this block's memory has left it.
    __device__ __forceinline__ void leave() const {
        __syncwarp();
        ptx::cluster_arrive_relaxed();
    }

    __device__ __forceinline__ void score_rows(Tile& score) const {
        const Scorer scorer(params_, control_, base_, warp_, lane_);
#pragma unroll 1
        for (int half = 0; half < kHalves; ++half) {
            ptx::barrier_wait(&control_.rows[half], 0);
            scorer.score(half, score);
        }
        ptx::named_barrier(kRowsBarrier + warp_ / 4, 128);
        scorer.add_shares(warp_, score);
    }

    __device__ __forceinline__ void send(const DirectExchange& exchange) const {
        Output out = {};
        multiply_values(base_, warp_, lane_, out);
        exchange.stage(out);
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) exchange.push();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
    }

    __device__ __forceinline__ void help() const {
        const int warp = warp_ - kDirectWarps;
        const Finder<576, true> finder(params_, token_, rank_, row_of(warp, lane_), true);
        begin();
        if (!exists()) return;
        const Found found(finder);
        copy_rows(params_, control_, base_, found, warp, lane_);
        ptx::copy_commit();
        __syncwarp();
        ptx::cluster_wait();
        ptx::copy_wait<0>();
        __syncwarp();
        describe_row(control_, base_, row_of(warp, lane_), found.own.valid);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.described);
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        const int thread = static_cast<int>(threadIdx.x) - kMainThreads;
        tell(params_, control_, rank_, thread);
        ptx::barrier_wait(&control_.told, 0);
        const DirectExchange exchange(params_, control_, base_, rank_, 0, lane_);
#pragma unroll 1
        for (int h = thread / 8; h < kHeads; h += kHelperThreads / 8)
            settle(params_, control_, exchange.back(), token_, first_head_, h, rank_ == 0);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled);
        leave();
    }

    const Params& params_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

__global__ void __launch_bounds__(kDirectThreads, 1) flat_direct(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock(params, shared).run();
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
