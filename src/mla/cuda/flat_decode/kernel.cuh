// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and N heads per cluster of `splits` blocks, for few heads or short shares: no roles, no
// ring. All warps bring a chunk of rows, score it, and add its values. A share that is one chunk has no step that waits for an earlier one's end. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/flat_decode/exchange.cuh"
#include "mla/cuda/flat_decode/queries.cuh"
#include "mla/cuda/flat_decode/rows.cuh"
#include "mla/cuda/flat_decode/weigh.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// Everything about one block; the steps are in the order of their names in run().
template <int Dim, int N, bool Half, int Blocks>
class FlatBlock {
    using S = Shape<Dim, N, Blocks>;
    using Control = FlatControl<N, Blocks>;
    using Rows = WarpRows<Dim, N, Blocks>;

  public:
    __device__ __forceinline__ FlatBlock(const Params& params, unsigned char* shared)
        : params_(params),
          shared_(shared),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<Control*>(shared + S::kControl)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        const int item = static_cast<int>(blockIdx.x) >> params.split_shift;
        rank_ = static_cast<int>(blockIdx.x) & (params.splits - 1);
        token_ = item / params.head_groups;
        first_head_ = item % params.head_groups * N;
    }

    __device__ __forceinline__ void run() {
        if (params_.num_tokens != nullptr && token_ >= *params_.num_tokens) return;  // the whole cluster
        const Columns columns = columns_of(params_, token_, rank_);
        Selected selected = Rows::ask(params_, columns, token_, 0, warp_, lane_);
        Queries<Dim, N, Half, Blocks> queries;
        queries.load(params_, token_, first_head_);
        const int chunks = S::kOneChunk ? 1 : max(1, (columns.last - columns.first + S::kRows - 1) / S::kRows);
        load_page(params_, token_, selected);
        [[maybe_unused]] RawRows<Dim, N, Blocks> raw;
        Converter<Dim, N, Blocks> converter(control_, base_, warp_, lane_);
        bring(Rows(params_, selected), raw);
        selected = Rows::ask(params_, columns, token_, 1, warp_, lane_);
        using Exchange = FlatExchange<Dim, N, Half, Blocks>;
        if (threadIdx.x == 0) Exchange::listen(params_, control_);
        const int power = queries.store(control_, base_, warp_, lane_);
        Weigher<Dim, N, Half, Blocks> weigher(params_, control_, base_, warp_, lane_, power);
        TileSums<N> sums;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            load_page(params_, token_, selected);
            float score[N / 2];
            score_rows(raw, converter, score);
            const bool last = chunk + 1 == chunks;
            add_shares<Dim, N, Blocks>(base_, warp_ / 4, static_cast<int>(threadIdx.x) % 128, score);
            if (last && params_.splits > 1) ptx::cluster_arrive_relaxed();  // parts may land in place of the queries
            if (warp_ < 4 * Blocks) {
                weigher.weigh(score, chunk == 0);
                ptx::fence_shared_async();
            }
            __syncthreads();
            if (chunk > 0) sums.correct(control_.correction, lane_);
            multiply_values<Dim, N, Half, Blocks>(shared_, warp_ / 4, sums);
            __syncthreads();
            if (!last) {
                bring(Rows(params_, selected), raw);
                selected = Rows::ask(params_, columns, token_, chunk + 2, warp_, lane_);
            }
        }
        finish(Exchange(params_, control_, base_, rank_, chunks), weigher, sums);
    }

  private:
    __device__ __forceinline__ void bring(const Rows& rows, RawRows<Dim, N, Blocks>& raw) {
        if constexpr (Half)
            raw.load(rows, lane_);
        else
            copy_rows<Dim, N, Blocks>(control_, base_, rows, warp_, lane_);
    }

    /// The chunk's rows to the operands, and their scores. Rounding errors of odd scales are scored first, in the place
    /// of the rows.
    __device__ __forceinline__ void score_rows(const RawRows<Dim, N, Blocks>& raw, Converter<Dim, N, Blocks>& converter,
                                               float (&score)[N / 2]) {
        bool rests = false;
        if constexpr (!Half) {
            ptx::copy_wait<0>();
            ptx::fence_shared_async();
            __syncthreads();
        } else {
            const bool odd = converter.settle(raw);
            if (!odd) converter.template store<Stored::exact>(raw);
            ptx::fence_shared_async();
            rests = __syncthreads_or(odd ? 1 : 0) != 0;
        }
        if constexpr (Half && Slabs<Dim>::kRests) {
            if (rests) {
                converter.template store<Stored::rests>(raw);
                ptx::fence_shared_async();
                __syncthreads();
            }
        }
#pragma unroll
        for (int e = 0; e < N / 2; ++e) score[e] = 0.0F;
        multiply_rows<Dim, N, Half, Blocks>(shared_, warp_ / 4, score, [&] {
            if constexpr (Half && Slabs<Dim>::kRests) {
                if (!rests) return false;
                rests = false;
                __syncthreads();
                converter.template store<Stored::rounded>(raw);
                ptx::fence_shared_async();
                __syncthreads();
                return true;
            } else {
                return false;
            }
        });
    }

    __device__ __forceinline__ void finish(const FlatExchange<Dim, N, Half, Blocks>& exchange,
                                           Weigher<Dim, N, Half, Blocks>& weigher, const TileSums<N>& sums) {
        const int thread = static_cast<int>(threadIdx.x);
        const bool split = params_.splits > 1;
        exchange.stage(sums, warp_, lane_);
        if (split) {
            ptx::cluster_wait();
            exchange.push(warp_, lane_);
        }
        if (warp_ < 4 * Blocks) {
            const HeadSums own = weigher.finish();
            if (thread < N) exchange.share(thread, own);
        }
        __syncthreads();
        if (split) ptx::barrier_wait(&control_.told, 0);
        exchange.settle(thread, token_, first_head_);
        __syncthreads();
        if (split) {
            ptx::barrier_wait(&control_.landed, 0);
            __syncwarp();
            ptx::cluster_arrive_relaxed();
        }
        exchange.finish(thread, token_, first_head_);
        if (split) {  // nobody leaves while others still copy out of its memory
            __syncwarp();
            ptx::cluster_wait();
        }
    }

    const Params& params_;
    unsigned char* shared_;
    std::uint32_t base_;
    Control& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
};

template <int Dim, int N, bool Half, int Blocks>
__global__ void __launch_bounds__(kFlatThreads, Blocks == 1 ? 2 : 1) flat_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    FlatBlock<Dim, N, Half, Blocks>(params, shared).run();
}

}  // namespace tokamak::mla::cuda::flat_decode
