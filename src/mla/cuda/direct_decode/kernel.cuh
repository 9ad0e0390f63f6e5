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
        unsigned char* const own = shared_ + group_ * S::kGroupBytes;
        const Columns columns = columns_of(params_, token_, rank_);
        const int blocks = (columns.last - columns.first + Groups * kRows - 1) / (Groups * kRows);
        OwnLoader loader(params_, control_, own, columns, token_, group_, warp_, lane_);
        Scorer<Dim, N, Groups> scorer(params_, warp_, lane_);
        scorer.load(params_, token_, first_head_);
        if (threadIdx.x == 0) make_barriers();
        clear_weights(own + S::kWeights);
        __syncthreads();
        if (params_.splits > 1) ptx::cluster_arrive_relaxed();
        loader.begin();
        for (int b = 0; b < S::kStages - 1; ++b)
            if (b < blocks) loader.load(b, b);
        scorer.convert(params_.heads - first_head_);
        Values<Dim, N, Groups> values(warp_, lane_);
        Weigher<Dim, N, Groups> weigher(params_, control_, own + S::kPartial, own + S::kWeights, group_,
                                        warp_ * 32 + lane_);
        weigher.begin();
        multiply(own, blocks, loader, scorer, values, weigher);
        weigher.leave_sums();
        __syncthreads();
        Output<Dim, N, Groups>(params_, control_, shared_, token_, first_head_, rank_, group_, warp_, lane_)
            .finish(values);
    }

  private:
    __device__ __forceinline__ void make_barriers() {
        for (int g = 0; g < Groups; ++g)
            for (int s = 0; s < S::kStages; ++s) ptx::barrier_init(&control_.full[g][s], OwnLoader::kArrivals);
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
    __device__ __forceinline__ void multiply(unsigned char* own, int blocks, OwnLoader& loader,
                                             const Scorer<Dim, N, Groups>& scorer, Values<Dim, N, Groups>& values,
                                             Weigher<Dim, N, Groups>& weigher) {
        unsigned char* const partial = own + S::kPartial;
        unsigned char* const weights = own + S::kWeights;
        const unsigned char* before = own;
        Stage stage;
        for (int block = 0; block < blocks; ++block) {
            const unsigned char* const raw = own + stage.index * S::kStageBytes;
            ptx::barrier_wait(&control_.full[group_][stage.index], stage.phase);
            scorer.score(raw, partial);
#pragma unroll
            for (int i = 0; i < 2; ++i) values.add(before, weights, i);
            ptx::named_barrier(1 + group_, kGroupThreads);
            const int next = block + S::kStages - 1;
            if (next < blocks) loader.load(next, stage.index == 0 ? S::kStages - 1 : stage.index - 1);
            if (weigher.weigh(raw, stage.index)) values.scale(control_.correction[group_]);
            before = raw;
            stage.advance(S::kStages);
        }
        if (blocks == 0) return;
#pragma unroll
        for (int i = 0; i < 2; ++i) values.add(before, weights, i);
    }

    const Params& params_;
    unsigned char* shared_;
    Control& control_;
    int lane_, warp_, group_;
    int rank_, token_, first_head_;
};

template <int Dim, int N, int Groups>
__global__ void __launch_bounds__(Groups* kGroupThreads, 1) direct_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DirectBlock<Dim, N, Groups>(params, shared).run();
}

}  // namespace tokamak::mla::cuda::direct_decode
