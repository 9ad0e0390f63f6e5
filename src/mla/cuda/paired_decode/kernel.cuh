// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads for bf16 rows, by a block or a cluster of `splits` blocks, each with its
// share of the selected rows: two warpgroups score blocks of rows in turns and have half of the output each, a third
// one brings rows. See docs/kernels/sparse_mla_paired.md.
#pragma once

#include "mla/cuda/paired_decode/bring.cuh"
#include "mla/cuda/paired_decode/merge.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Registers of a thread by role.
inline constexpr int kTurnRegisters = 216;
inline constexpr int kBringRegisters = 72;

/// Who meets at the start: the warp that makes the barriers, and the producers.
inline constexpr int kStartThreads = 32 + kPairedThreads - kTurnThreads;

/// Everything about one block. `Split`: of a cluster.
template <int Dim, bool Split>
class PairedBlock {
    using S = PairedShape<Dim>;

  public:
    __device__ __forceinline__ PairedBlock(const Params& params, unsigned char* shared, int item)
        : params_(params),
          shared_(shared),
          control_(*reinterpret_cast<PairedControl*>(shared + S::kControl)),
          base_(ptx::shared_address(shared)),
          rank_(static_cast<int>(blockIdx.x) - item * params.splits),
          token_(item / params.head_groups),
          first_head_(item % params.head_groups * kHeads),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),  // uniform, and known to be
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ __forceinline__ void run() {
        if (params_.num_tokens != nullptr && token_ >= *params_.num_tokens) return;  // the whole cluster
        if (warp_ >= kTurnThreads / 32) {
            ptx::set_registers<kPairedThreads, kBringRegisters>();
            bring();
        } else {
            ptx::set_registers<kPairedThreads, kTurnRegisters>();
            take_turns();
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static int pairs_of(const Columns& columns) {
        return (columns.blocks() + 1) / 2;
    }

    __device__ __forceinline__ void make_barriers() {
        if (lane_ < 4) {
            ptx::barrier_init(&control_.full[lane_ / 2][lane_ % 2], 128);
#pragma unroll
            for (std::uint64_t& empty : control_.empty[lane_ / 2][lane_ % 2]) ptx::barrier_init(&empty, 4);
        }
        if (lane_ < 2) ptx::barrier_init(&control_.weighed[lane_], 4);
        if (lane_ == 0) {
            ptx::barrier_init(&control_.ahead, 4);
            if constexpr (Split) {
                ptx::barrier_init(&control_.told, 1);
                ptx::barrier_init(&control_.landed, 1);
                Merge<Dim>(params_, control_, shared_, rank_).expect();
            }
        }
        ptx::fence_barrier_init();
    }

    /// The columns of this block if all lengths are full: indices are asked for before lengths are known.
    [[nodiscard]] __device__ __forceinline__ Columns full_columns() const {
        const int in_first = params_.first.top_k[0];
        const int total = in_first + params_.first.top_k[1];
        const int share = (over_splits(params_, total + params_.splits - 1) + 7) / 8 * 8;
        const int first = min(total, rank_ * share);
        return {first, min(total, first + share), in_first};
    }

    __device__ __forceinline__ void bring() {
        Columns columns = full_columns();
        RowStream<kPerWarp> rows;
        const int warp = warp_ - kTurnThreads / 32;
        const int row = warp * kPerWarp + lane_ % kPerWarp;
        rows.start(params_, columns, token_, row, lane_);
        const Columns known = columns_of(params_, token_, rank_);
        if (known.first != columns.first || known.last != columns.last ||
            known.in_first_pool != columns.in_first_pool) {
            columns = known;
            rows.start(params_, columns, token_, row, lane_);
        }
        ptx::named_barrier(kPairedStart, kStartThreads);
        rows.begin();
        Bringer<Dim>(control_, base_, warp, lane_).run(rows, pairs_of(columns));
        touch_last();
        ptx::copy_wait<0>();
        __syncwarp();
        end(warp * 32 + lane_);
    }

    /// Brings what the end needs of the parameters while the last blocks are multiplied.
    __device__ __forceinline__ void touch_last() const {
        asm volatile("" ::"l"(params_.out), "l"(params_.lse), "l"(params_.max_logits), "l"(params_.sink),
                     "l"(params_.out_token_stride), "l"(params_.out_head_stride), "l"(params_.lse_token_stride),
                     "r"(params_.value_dim), "r"(params_.owned_parts), "r"(static_cast<int>(params_.out_kind)));
    }

    /// The producers see to the sums, as they have nothing else to do while outputs are stored or brought to their
    /// owners.
    __device__ __forceinline__ void end(int thread) {
        if constexpr (Split) ptx::cluster_arrive_relaxed();
        ptx::named_barrier(kSummedBarrier, kPairedThreads);
        if constexpr (Split) ptx::cluster_wait();
        if (thread < kHeads) {
            const float sink = own_sink(thread);
            const HeadSums all = Split ? told_sums(thread, sink) : sums_of(thread);
            if (rank_ == 0 && is_real(thread)) store_statistics(params_, token_, first_head_ + thread, all, sink);
        }
        if constexpr (!Split) return;
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        ptx::named_barrier(kFactorsBarrier, kPairedThreads);
        const Merge<Dim> merging(params_, control_, shared_, rank_);
        merging.await();
        merging.add(token_, first_head_, warp_ * 32 + lane_);
        leave();
    }
    /// Of all splits.
    [[nodiscard]] __device__ __forceinline__ HeadSums told_sums(int own, float sink) {
        const Merge<Dim> merging(params_, control_, shared_, rank_);
        merging.tell(own, sums_of(own));
        return merging.factors(own, sink);
    }

    /// Nobody leaves while others still copy to its memory or out of it.
    __device__ __forceinline__ static void leave() {
        __syncwarp();
        ptx::cluster_wait();
    }

    __device__ __forceinline__ void take_turns() {
        const int side = warp_ / 4;
        const int warp = warp_ % 4;
        const int thread = warp_ * 32 + lane_;
        if (warp_ == 0) {  // the other ones see the barriers behind that of the queries
            make_barriers();
            named_barrier_arrive(kPairedStart, kStartThreads);
        }
        Queries<Dim>::start(params_, base_, token_, first_head_, thread);
        const int pairs = pairs_of(columns_of(params_, token_, rank_));
        Queries<Dim>::finish(params_, base_, token_, first_head_, thread);
        Turns<Dim, Split> turns(params_, control_, base_, side, warp, lane_);
        turns.run(pairs);
        __syncwarp();
        leave_sums(turns, side, warp);
        named_barrier_arrive(kSummedBarrier, kPairedThreads);
        if constexpr (Split) {
            merge(turns, side, warp);
        } else {
            ptx::named_barrier(kTurnBarrier, kTurnThreads);
            store(turns, side, warp);
        }
    }

    /// A warpgroup's sums and largest scores of each head, and the references that both have in the end.
    __device__ __forceinline__ void leave_sums(const Turns<Dim, Split>& turns, int side, int warp) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = turns.sum_[h] + __shfl_xor_sync(~0U, turns.sum_[h], 1);
            sum += __shfl_xor_sync(~0U, sum, 2);
            float top = max_or_nan(turns.top_[h], __shfl_xor_sync(~0U, turns.top_[h], 1));
            top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
            if ((lane_ & 3) == 0) {
                const int own = warp * 16 + lane_ / 4 + 8 * h;
                control_.sum[side][own] = sum;
                control_.top[side][own] = top;
                if (side == 0) control_.reference[0][own] = turns.reference_[h];
            }
        }
    }
    [[nodiscard]] __device__ __forceinline__ HeadSums sums_of(int own) const {
        HeadSums all;
        all.top = max_or_nan(control_.top[0][own], control_.top[1][own]);
        all.reference = control_.reference[0][own];
        all.sum = control_.sum[0][own] + control_.sum[1][own];
        return all;
    }
    [[nodiscard]] __device__ __forceinline__ bool is_real(int own) const { return first_head_ + own < params_.heads; }
    [[nodiscard]] __device__ __forceinline__ float own_sink(int own) const {
        return is_real(own) ? sink_of(params_, first_head_ + own) : -kInfinity;
    }

    __device__ __forceinline__ void store(const Turns<Dim, Split>& turns, int side, int warp) {
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int own = warp * 16 + lane_ / 4 + 8 * h;
            factor[h] = factor_of(sums_of(own), own_sink(own));
        }
        const WarpOutput output = {params_, base_ + warp_ * 8192, token_, first_head_ + warp * 16, side * kHalfDims,
                                   lane_};
        output.store(turns.out_, factor);
    }

    __device__ __forceinline__ void merge(const Turns<Dim, Split>& turns, int side, int warp) {
        const Merge<Dim> merging(params_, control_, shared_, rank_);
        ptx::named_barrier(kSideBarrier + side, 128);  // this side is done with rows
        ptx::cluster_wait();                           // and nobody needs queries any more
        merging.stage(turns.out_, side, warp, lane_);
        merging.push(side, warp);
        ptx::named_barrier(kFactorsBarrier, kPairedThreads);
        merging.await();
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        merging.add(token_, first_head_, warp_ * 32 + lane_);
        leave();
    }

    const Params& params_;
    unsigned char* shared_;
    PairedControl& control_;
    std::uint32_t base_;
    int rank_, token_, first_head_, warp_, lane_;
};

template <int Dim, bool Split>
__global__ void __launch_bounds__(kPairedThreads, 1) paired_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const int item = over_splits(params, static_cast<int>(blockIdx.x));
    PairedBlock<Dim, Split>(params, shared, item).run();
}

}  // namespace tokamak::mla::cuda::paired_decode
