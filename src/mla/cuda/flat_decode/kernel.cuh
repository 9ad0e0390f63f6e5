// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and N heads per cluster of `splits` blocks, for shares of at most 64 * Blocks rows: no
// roles, no ring. All warps bring the rows of the share at once, score them, take one softmax over them and add their
// values. See docs/kernels/sparse_mla.md.
#pragma once

#include <type_traits>

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/flat_decode/exchange.cuh"
#include "mla/cuda/flat_decode/queries.cuh"
#include "mla/cuda/flat_decode/rows_bf16.cuh"
#include "mla/cuda/flat_decode/rows_fp8.cuh"
#include "mla/cuda/flat_decode/weigh.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// Everything about one block.
template <int Dim, int N, bool Half, int Blocks>
class FlatBlock {
    using S = Shape<Dim, N, Half, Blocks>;
    using Control = FlatControl<N, Blocks>;
    using OwnAdder = Adder<N, Half, Control>;
    using Rows = std::conditional_t<Half, Fp8Rows<Dim, N, Blocks>, Bf16Rows<Dim, N, Blocks>>;

  public:
    __device__ __forceinline__ FlatBlock(const Params& params, unsigned char* shared)
        : params_(params),
          shared_(shared),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<Control*>(shared + S::kControl)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        token_ = static_cast<int>(__umulhi(blockIdx.x, params.first.of_splits));
        rank_ = static_cast<int>(ptx::cluster_rank());
        first_head_ = static_cast<int>(blockIdx.y) * N;
    }

    __device__ __forceinline__ void run() {
        const Finder<Dim, Half> finder = Rows::ask(params_, token_, rank_, warp_, lane_);
        const int tokens = params_.num_tokens != nullptr ? *params_.num_tokens : token_ + 1;
        Queries<Dim, N, Half, Blocks> queries(warp_, lane_);
        queries.load(params_, token_, first_head_);
        if (threadIdx.x == 0) listen<N>(params_, control_, rank_, S::kRowWarps, kWarps);
        if (token_ >= tokens) return;  // the whole cluster
        float score[N / 2] = {};
        score_rows(Found(finder), queries, score);
        add_shares<Dim, N, Half, Blocks>(base_, warp_, lane_, score);
        __syncwarp();
        ptx::cluster_arrive_relaxed();  // parts may land in place of the queries
        const Exchange<N, Half, false> exchange(params_, {base_ + S::kStaged, base_, &control_.landed}, rank_, 0);
        OwnAdder adder(params_, control_, exchange);
        Weigher<Dim, N, Half, Blocks> weigher(params_, control_, base_, warp_, lane_);
        if (warp_ < S::kRowWarps)
            weigher.weigh(score);
        else
            adder.take(token_, first_head_, item());
        ptx::fence_shared_async();
        __syncthreads();
        // The warps that weighed tell the sums while the tensor cores have the other warps' products.
        if (warp_ < S::kRowWarps) {
            weigher.leave_sums();
            ptx::cluster_wait();
            tell_sums<N, 32 * S::kRowWarps>(params_, control_, rank_, static_cast<int>(threadIdx.x),
                                            [&](int h) { return weigher.sum_of(h); });
        }
        float tile[2][N / 2];
        multiply_values<Dim, N, Half, Blocks>(shared_, warp_ / 4, tile);
        if (warp_ < S::kRowWarps)
            adder.take(token_, first_head_, item());
        else
            ptx::cluster_wait();
        finish(exchange, adder, tile);
    }

  private:
    /// Rows and queries to the operands, and this warp's share of the scores.
    __device__ __forceinline__ void score_rows(const Found& found, const Queries<Dim, N, Half, Blocks>& queries,
                                               float (&score)[N / 2]) {
        if constexpr (Half) {
            Rows rows(control_, base_, warp_, lane_);
            rows.load(found);
            store_queries(queries);
            __syncthreads();
            rows.score(score);
        } else {
            Rows::copy(control_, base_, found, warp_, lane_);
            store_queries(queries);
            ptx::copy_wait<0>();
            ptx::fence_shared_async();
            __syncthreads();
            multiply_rows<Dim, N, Blocks>(shared_, warp_ / 4, score);
        }
    }

    /// The condition always holds: behind a branch the compiler does not wait for queries before it asks for rows.
    __device__ __forceinline__ void store_queries(const Queries<Dim, N, Half, Blocks>& queries) {
        if (first_head_ < params_.heads) queries.store(params_, control_, base_);
    }

    /// What a thread adds up first: the warps that do not weigh have time for it.
    [[nodiscard]] __device__ __forceinline__ static int item() {
        return static_cast<int>(threadIdx.x + kFlatThreads - 32 * S::kRowWarps) % kFlatThreads;
    }

    /// The way of the sums to the caller's output.
    __device__ __forceinline__ void finish(const Exchange<N, Half, false>& exchange, OwnAdder& adder,
                                           const float (&tile)[2][N / 2]) {
        const int items = N * 8 * exchange.parts();
        int item = FlatBlock::item();
        ptx::wgmma_wait<1>();
        send(exchange, tile[0], 0);
        ptx::wgmma_wait<0>();
        send(exchange, tile[1], 1);
        if (lane_ == 0) ptx::barrier_arrive(&control_.landed);
        ptx::barrier_wait(&control_.told, 0);
        if (item < items) adder.settle();
        ptx::barrier_wait(&control_.landed, 0);
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        if (item < items) adder.add();
        if (rank_ == 0) adder.store_sums();
        for (item += kFlatThreads; item < items; item += kFlatThreads) {
            adder.take(token_, first_head_, item);
            adder.settle();
            adder.add();
        }
        __syncwarp();
        ptx::cluster_wait();  // nobody leaves while others still copy out of its memory
    }

    /// A warp's part of one of its tiles to the block that owns it.
    __device__ __forceinline__ void send(const Exchange<N, Half, false>& exchange, const float (&tile)[N / 2], int i) {
        const int part = part_of(warp_, i);
        exchange.stage(tile, part, lane_);
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) exchange.push(part);
        __syncwarp();
    }

    const Params& params_;
    unsigned char* shared_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

template <int Dim, int N, bool Half, int Blocks>
__global__ void __launch_bounds__(kFlatThreads, 1) flat_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    FlatBlock<Dim, N, Half, Blocks>(params, shared).run();
}

}  // namespace tokamak::mla::cuda::flat_decode
