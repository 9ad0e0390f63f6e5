// SPDX-License-Identifier: Apache-2.0
// The flat form for fp8 rows, 16 or 24 heads: rows are brought as they are and converted in registers, once for the
// scores and once for the values. Sixteen warps do the mathematics, four bring rows and settle sums. See
// docs/kernels/sparse_mla_flat.md.
#pragma once

#include "mla/cuda/flat_decode/column_scores.cuh"
#include "mla/cuda/flat_decode/direct_exchange.cuh"
#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/flat_decode/direct_weigh.cuh"
#include "mla/cuda/flat_decode/instances.h"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Everything about one block.
template <int Dim, int Rows, int Heads>
class DirectBlock {
    using L = Layout<Dim, Rows, Heads>;
    using Control = DirectControl<Dim, Rows, Heads>;
    using Scores = Tile<Heads>[L::kOwn];
    static constexpr bool kColumns = Heads > 16;  ///< heads are columns of the products
    using Weigher = DirectWeigher<Dim, Rows, Heads>;
    using OwnExchange = DirectExchange<Dim, Rows, Heads>;

  public:
    __device__ __forceinline__ DirectBlock(const Params& params, unsigned char* shared)
        : params_(params),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<Control*>(shared + L::kControl)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        token_ = static_cast<int>(__umulhi(blockIdx.x, params.first.of_splits));
        rank_ = static_cast<int>(ptx::cluster_rank());
        first_head_ = static_cast<int>(blockIdx.y) * Heads;
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
    [[nodiscard]] __device__ __forceinline__ bool exists() const {
        return params_.num_tokens == nullptr || token_ < *params_.num_tokens;
    }
    /// Tells the cluster that this block's barriers are there and that parts may land; or that all is done.
    __device__ __forceinline__ static void arrive() {
        __syncwarp();
        ptx::cluster_arrive_relaxed();
    }

    /// By all main warps: a warp that initialises a barrier per lane does so lane by lane, 50 cycles each.
    __device__ __forceinline__ void listen_all() const {
        if (lane_ > 0) return;
#pragma unroll
        for (int i = 0; i < L::kTurns / 4; ++i) ptx::barrier_init(&control_.rows[0][0] + warp_ + kDirectWarps * i, 32);
        ptx::fence_barrier_init();
        if (warp_ > 0) return;
        ptx::barrier_init(&control_.described, kHelperWarps);
        ptx::barrier_init(&control_.settled, kHelperWarps);
        listen<Heads>(params_, control_, rank_, kHelperWarps, kDirectWarps);
    }

    __device__ __forceinline__ void calculate() const {
        DirectQueries<Dim> queries(warp_, lane_);
        queries.load(params_, token_, first_head_);
        DirectQueries<Dim> more(kDirectWarps + warp_, lane_);
        const bool has_more = kColumns && warp_ < Heads - kDirectWarps;
        if (has_more) more.load(params_, token_, first_head_);
        listen_all();
        ptx::named_barrier(kStartBarrier, kDirectThreads);
        const bool real = exists();
        if (!L::kTight || !real) arrive();
        if (!real) return;
        queries.template store<kColumns>(params_, control_, base_ + L::kQueries);
        if (has_more) more.template store<kColumns>(params_, control_, base_ + L::kQueries);
        OwnExchange exchange(params_, control_, base_, rank_, warp_, lane_);
        exchange.take(token_, first_head_);
        // The cluster is awaited where there is time: it empties the cache, which holds up shared memory.
        if constexpr (!L::kTight) ptx::cluster_wait();
        ptx::named_barrier(kMainBarrier, kMainThreads);
        Scores score = {};
        Weigher weigher(params_, control_, base_, warp_, lane_);
        if constexpr (kColumns)
            score_columns(score[0], weigher);
        else
            score_turns(score, weigher);
        weigher.weigh(score);
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        send(exchange);
        ptx::barrier_wait(&control_.settled, 0);
        ptx::barrier_wait(&control_.landed, 0);
        arrive();
        exchange.add();
    }

    __device__ __forceinline__ void score_turns(Scores& score, Weigher& weigher) const {
        const Scorer<Dim, Rows> scorer(params_, control_, base_, warp_, lane_);
        if constexpr (L::kTight) arrive();
#pragma unroll
        for (int own = 0; own < L::kOwn; ++own) {
            if (own > 0) await_quad();
#pragma unroll
            for (int turn = 4 * own; turn < 4 * own + 4; ++turn) {
                ptx::barrier_wait(&control_.rows[warp_ / 4][turn], 0);
                scorer.score(turn, score[own]);
            }
            if (L::kTight && own == 0) ptx::cluster_wait();
            if (own == L::kOwn - 1) read_rows(weigher);
            await_quad();
            scorer.add_shares(warp_, score[own]);
        }
    }
    __device__ __forceinline__ void score_columns(Tile<Heads>& score, Weigher& weigher) const {
        const ColumnScorer<Rows, Heads> scorer(control_, base_, warp_, lane_);
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            ptx::barrier_wait(&control_.rows[warp_ / 4][2 * half], 0);
            ptx::barrier_wait(&control_.rows[warp_ / 4][2 * half + 1], 0);
            scorer.score(half);
        }
        read_rows(weigher);
        await_quad();
        scorer.add_shares(warp_, score);
    }
    __device__ __forceinline__ void read_rows(Weigher& weigher) const {
        ptx::barrier_wait(&control_.described, 0);
        weigher.read_rows();
    }
    /// The four warps that have the same rows.
    __device__ __forceinline__ void await_quad() const { ptx::named_barrier(kRowsBarrier + warp_ / 4, 128); }

    __device__ __forceinline__ void send(const OwnExchange& exchange) const {
        if constexpr (kColumns) {
            ColumnOutput<Heads> out = {};
            multiply_columns<Rows, Heads>(base_, warp_, lane_, out);
            exchange.stage(out);
        } else {
            Output out = {};
            multiply_values<Dim, Rows>(base_, warp_, lane_, out);
            exchange.stage(out);
        }
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) exchange.push();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
    }

    __device__ __forceinline__ void help() const {
        const int warp = warp_ - kDirectWarps;
        Finder<Dim, true> finders[L::kOwn];
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i)
            finders[i].ask(params_, token_, rank_, row_of<Rows>(warp, 32 * i + lane_), true);
        ptx::named_barrier(kStartBarrier, kDirectThreads);
        arrive();
        if (!exists()) return;
        bring_rows(finders, warp);
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        settle_all(static_cast<int>(threadIdx.x) - kMainThreads);
        arrive();
    }

    __device__ __forceinline__ void bring_rows(const Finder<Dim, true> (&finders)[L::kOwn], int warp) const {
        bool valid[L::kOwn];
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i) {
            const Found found(finders[i]);
            valid[i] = found.own.valid;
            copy_rows(params_, control_, base_, found, warp, lane_, 4 * i);
        }
        ptx::copy_commit();
        __syncwarp();
        ptx::cluster_wait();
        ptx::copy_wait<0>();
        __syncwarp();
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i) describe_row(control_, base_, row_of<Rows>(warp, 32 * i + lane_), valid[i]);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.described);
    }

    __device__ __forceinline__ void settle_all(int thread) const {
        tell<Heads>(params_, control_, rank_, thread);
        ptx::barrier_wait(&control_.told, 0);
        const OwnExchange exchange(params_, control_, base_, rank_, 0, lane_);
        constexpr int kEach = Heads == 16 ? 2 : 4;
        if (thread * kEach < Heads * kMostSplits)
            settle<kEach>(params_, control_, exchange.back(), token_, first_head_, thread, rank_ == 0);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled);
    }

    const Params& params_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

template <int Dim, int Rows, int Heads>
__global__ void __launch_bounds__(kDirectThreads, 1) flat_direct(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock<Dim, Rows, Heads>(params, shared).run();
}

template <int Dim, int Rows, int Heads>
FlatKernel describe_direct() {
    return {reinterpret_cast<const void*>(&flat_direct<Dim, Rows, Heads>), kDirectThreads,
            kDirectBytes<Dim, Rows, Heads>};
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
