// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and N heads per cluster of `splits` blocks, for fp8 rows. Rows stay in shared memory as
// they are in memory; warps read codes twice, for the scores and for the values, and convert them in registers to
// operands of mma.sync. See docs/kernels/sparse_mla.md.
#pragma once

#include "mla/cuda/direct_decode/loader.cuh"
#include "mla/cuda/direct_decode/output.cuh"
#include "mla/cuda/direct_decode/scores.cuh"
#include "mla/cuda/direct_decode/values.cuh"
#include "mla/cuda/direct_decode/weights.cuh"

namespace tokamak::mla::cuda::direct_decode {

/// Registers of a thread by role, of those that its launch has.
template <int Groups>
struct Registers {
    static constexpr int kMath = Groups == 2 ? 112 : 208;
    static constexpr int kProduce = 32;
};

template <int Dim, int N, int Groups>
class DirectBlock {
    using S = Shape<Dim, N, Groups>;
    using Control = DirectControl<Dim, N, Groups>;
    using OwnLoader = Loader<Dim, N, Groups>;

  public:
    __device__ __forceinline__ DirectBlock(const Params& params, unsigned char* shared)
        : params_(params),
          shared_(shared),
          control_(*reinterpret_cast<Control*>(shared + S::kControl)),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);
        group_ = warp / kGroupWarps;
        warp_ = warp % kGroupWarps;
        const int item = over_splits(params, static_cast<int>(blockIdx.x));
        rank_ = static_cast<int>(blockIdx.x) - item * params.splits;
        token_ = item / params.head_groups;
        first_head_ = (item - token_ * params.head_groups) * N;
    }

    __device__ __forceinline__ void run() {
        if (params_.num_tokens != nullptr && token_ >= *params_.num_tokens) return;  // the whole cluster
        if (group_ == Groups) {
            ptx::set_registers<S::kThreads, Registers<Groups>::kProduce>();
            produce();
        } else {
            ptx::set_registers<S::kThreads, Registers<Groups>::kMath>();
            multiply();
        }
    }

  private:
    /// All roles, when barriers are made.
    __device__ __forceinline__ void start_together() const {
        __syncthreads();
        if (params_.splits > 1) ptx::cluster_arrive_relaxed();
    }

    [[nodiscard]] __device__ __forceinline__ static int blocks_of(const Columns& columns) {
        return (columns.last - columns.first + Groups * kRows - 1) / (Groups * kRows);
    }

    /// The columns of this block if all lengths are full: indices are asked for before lengths are known.
    [[nodiscard]] __device__ __forceinline__ Columns full_columns() const {
        const int in_first = params_.first.top_k[0];
        const int total = in_first + params_.first.top_k[1];
        const int share = (over_splits(params_, total + params_.splits - 1) + 7) / 8 * 8;
        const int first = min(total, rank_ * share);
        return {first, min(total, first + share), in_first};
    }

    __device__ __forceinline__ void produce() {
        Columns columns = full_columns();
        OwnLoader loader(control_, shared_, warp_, lane_);
        loader.ask(params_, columns, token_);
        touch(params_.pools[0]);
        const Columns known = columns_of(params_, token_, rank_);
        if (known.first != columns.first || known.last != columns.last ||
            known.in_first_pool != columns.in_first_pool) {
            columns = known;
            loader.ask(params_, columns, token_);
        }
        start_together();
        loader.run(blocks_of(columns));
        __syncwarp();
        if (params_.splits > 1) ptx::cluster_wait();
        if (warp_ == 0) output().store_sums();
    }

    /// Brings what the first rows need of the parameters while their indices are on their way.
    __device__ __forceinline__ static void touch(const PoolParams& pool) {
        asm volatile("" ::"l"(pool.values), "l"(pool.page_stride), "l"(pool.rows), "l"(pool.block_table),
                     "l"(pool.table_stride), "r"(pool.page_size), "r"(pool.row_bytes));
    }

    [[nodiscard]] __device__ __forceinline__ Output<Dim, N, Groups> output() const {
        return {params_, control_, shared_, token_, first_head_, rank_, group_, warp_, lane_};
    }

    __device__ __forceinline__ void make_barriers() {
        for (int g = 0; g < Groups; ++g) {
#pragma unroll
            for (int s = 0; s < S::kStages; ++s) {
                ptx::barrier_init(&control_.full[g][s], OwnLoader::kArrivals);
                ptx::barrier_init(&control_.empty[g][s], kGroupWarps);
            }
        }
        Output<Dim, N, Groups>::expect_others(params_, control_);
        ptx::fence_barrier_init();
    }

    __device__ __forceinline__ void clear_weights(unsigned char* weights) const {
        constexpr int kBytes = S::kGroupBytes - S::kWeights;
        for (int i = (warp_ * 32 + lane_) * 16; i < kBytes; i += kGroupThreads * 16)
            *reinterpret_cast<uint4*>(weights + i) = uint4{0, 0, 0, 0};
    }

    /// The scores of a block are in one interval with the values of the one before: their instructions mix. Before the
    /// first block come its own values with weights of zero. (A NaN among these makes the result NaN anyway.)
    __device__ __forceinline__ void multiply() {
        unsigned char* const own = shared_ + group_ * S::kGroupBytes;
        unsigned char* const partial = own + S::kPartial;
        unsigned char* const weights = own + S::kWeights;
        if (threadIdx.x == 0) make_barriers();
        Scorer<Dim, N, Groups> scorer(params_, warp_, lane_);
        scorer.load(params_, token_, first_head_);
        const int blocks = blocks_of(columns_of(params_, token_, rank_));
        clear_weights(weights);
        start_together();
        scorer.convert(params_.heads - first_head_);
        Values<Dim, N, Groups> values(warp_, lane_);
        Weigher<Dim, N, Groups> weigher(params_, control_, partial, weights, group_, warp_ * 32 + lane_);
        const unsigned char* before = own;
        Stage stage;
        int last = -1;
        for (int block = 0; block < blocks; ++block) {
            const unsigned char* const raw = own + stage.index * S::kStageBytes;
            ptx::barrier_wait(&control_.full[group_][stage.index], stage.phase);
            scorer.score(raw, partial);
#pragma unroll
            for (int i = 0; i < 2; ++i) values.add(before, weights, i);
            __syncwarp();
            if (last >= 0 && lane_ == 0) ptx::barrier_arrive(&control_.empty[group_][last]);
            ptx::named_barrier(kGroupBarrier + group_, kGroupThreads);
            if (weigher.weigh(raw, stage.index)) values.scale(control_.correction[group_]);
            before = raw;
            last = stage.index;
            stage.advance(S::kStages);
        }
        if (blocks > 0) {
#pragma unroll
            for (int i = 0; i < 2; ++i) values.add(before, weights, i);
        }
        weigher.leave_sums();
        output().finish(values);
    }

    const Params& params_;
    unsigned char* shared_;
    Control& control_;
    int lane_, warp_, group_;
    int rank_, token_, first_head_;
};

template <int Dim, int N, int Groups>
__global__ void __launch_bounds__(Shape<Dim, N, Groups>::kThreads, 1)
    direct_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock<Dim, N, Groups>(params, shared).run();
}

}  // namespace tokamak::mla::cuda::direct_decode
