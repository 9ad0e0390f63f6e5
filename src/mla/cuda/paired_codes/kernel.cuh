// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads for fp8 rows of 512, by a block or a cluster of two blocks, each with its
// half of the selected rows: two warpgroups score blocks of rows in turns and have half of the output each, eight warps
// bring codes and make f16 rows of them. See docs/kernels/sparse_mla_paired_fp8.md.
#pragma once

#include "mla/cuda/paired_codes/convert.cuh"
#include "mla/cuda/paired_codes/merge.cuh"
#include "mla/cuda/paired_codes/share.cuh"
#include "mla/cuda/sparse_decode/first_read.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// The columns of split `rank`, of a token whose pools have so many that count.
__device__ __forceinline__ Columns share_of(const Params& params, int in_first, int in_second, int rank) {
    const int total = in_first + in_second;
    const int share = (over_splits(params, total + params.splits - 1) + 7) / 8 * 8;
    const int first = min(total, rank * share);
    return {first, min(total, first + share), in_first};
}
/// If all lengths are full: indices are asked for before lengths are known.
__device__ __forceinline__ Columns full_share(const Params& params, int rank) {
    return share_of(params, params.first.top_k[0], params.first.top_k[1], rank);
}
__device__ __forceinline__ Columns live_share(const Params& params, int token, int rank) {
    return share_of(params, live_columns(params.first, 0, token), live_columns(params.first, 1, token), rank);
}

/// Registers of a thread by role: all of a multiprocessor.
inline constexpr int kTurnRegisters = 208;
inline constexpr int kConvertRegisters = 48;

/// Everything about one block. `Split`: of a cluster. `Shared`: of a cluster of two with 64 heads each of a token,
/// which share the conversion of its rows.
template <bool Split, bool Shared>
class CodesBlock {
  public:
    __device__ __forceinline__ CodesBlock(const Params& params, unsigned char* shared, int item)
        : params_(params),
          shared_(shared),
          control_(*reinterpret_cast<CodesControl*>(shared + Layout::kControl)),
          base_(ptx::shared_address(shared)),
          rank_(Shared ? 0 : static_cast<int>(blockIdx.x) - item * params.splits),
          token_(item / params.head_groups),
          first_head_(
              (item % params.head_groups * (Shared ? 2 : 1) + (Shared ? static_cast<int>(blockIdx.x & 1U) : 0)) *
              kHeads),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),  // uniform, and known to be
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ __forceinline__ void run() {
        if (params_.num_tokens != nullptr && token_ >= *params_.num_tokens) return;  // the whole cluster
        if (warp_ >= kTurnThreads / 32) {
            ptx::set_registers<kThreads, kConvertRegisters>();
            bring();
        } else {
            ptx::set_registers<kThreads, kTurnRegisters>();
            take_turns();
        }
    }

  private:
    /// A few by each warp: a barrier takes 50 cycles to make.
    __device__ __forceinline__ void make_barriers() {
        constexpr int kAll = Split ? CodesControl::kBarriers : CodesControl::kBarriers - 2;
        if (lane_ == 0) {
#pragma unroll 1
            for (int i = warp_; i < kAll; i += kTurnThreads / 32)
                ptx::barrier_init(&control_.full[0][0] + i, CodesControl::arrivals<Shared>(i));
            if (Split && warp_ == CodesControl::kTold % (kTurnThreads / 32))
                ptx::barrier_arrive_expect(&control_.told, Merge::kToldBytes);
            if (Split && warp_ == (CodesControl::kTold + 1) % (kTurnThreads / 32))
                ptx::barrier_arrive_expect(&control_.landed, Merge::kLandedBytes);
        }
        ptx::fence_barrier_init();
    }

    /// All lines of the parameters at once, which would come one after the other. The warp stores what it reads, as the
    /// compiler would drop reads for nothing.
    __device__ __forceinline__ void touch_params() const {
        if (lane_ < kParamLines)
            control_.touched[lane_] = reinterpret_cast<const std::uint32_t*>(&params_)[lane_ * (kParamLineBytes / 4)];
    }

    __device__ __forceinline__ void bring() {
        Columns columns = full_share(params_, rank_);
        RowStream<kPerWarp> rows;
        const int warp = warp_ - kTurnThreads / 32;
        const int row = (Shared ? eight_of(warp, blockIdx.x & 1U) : warp) * kPerWarp + lane_ % kPerWarp;
        rows.start(params_, columns, token_, row, lane_);
        const Columns known = live_share(params_, token_, rank_);
        if (known.first != columns.first || known.last != columns.last ||
            known.in_first_pool != columns.in_first_pool) {
            columns = known;
            rows.start(params_, columns, token_, row, lane_);
        }
        rows.begin();
        if constexpr (Shared) {
            if (((warp ^ warp >> 2) & 1) == 0)  // both kinds on each scheduler
                share<true>(rows, warp / 2, columns.blocks());
            else
                share<false>(rows, warp / 2, columns.blocks());
        } else {
            Converter converter(control_, base_, warp, lane_);
            converter.start(rows);
            ptx::named_barrier(kPairedStart, kThreads);
            converter.run(rows, columns.blocks());
        }
        ptx::copy_wait<0>();
        __syncwarp();
        end(warp * 32 + lane_);
    }

    template <bool Rotary>
    __device__ __forceinline__ void share(RowStream<kPerWarp>& rows, int eight, int blocks) {
        SharingConverter<Rotary> converter(control_, base_, eight, lane_);
        ptx::cluster_arrive_relaxed();
        converter.start(rows);
        ptx::cluster_wait();  // barriers of both blocks are made
        converter.run(rows, blocks);
    }

    /// The producers see to the sums, as they have nothing else to do while outputs are stored or brought to their
    /// owners.
    __device__ __forceinline__ void end(int thread) {
        if constexpr (Split || Shared) ptx::cluster_arrive_relaxed();
        ptx::named_barrier(kSummedBarrier, kThreads);
        if constexpr (Split) ptx::cluster_wait();
        if (thread < kHeads) {
            const float sink = own_sink(thread);
            const HeadSums all = Split ? told_sums(thread, sink) : sums_of(thread);
            if (rank_ == 0 && is_real(thread)) store_statistics(params_, token_, first_head_ + thread, all, sink);
        }
        if constexpr (Shared) leave();
        if constexpr (!Split) return;
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        ptx::named_barrier_arrive(kFactorsBarrier, kThreads);
        leave();
    }
    /// Of both splits.
    [[nodiscard]] __device__ __forceinline__ HeadSums told_sums(int own, float sink) {
        const Merge merging = this->merging();
        merging.tell(own, sums_of(own));
        return merging.factors(own, sink);
    }

    /// Nobody leaves while the other one still copies to its memory.
    __device__ __forceinline__ static void leave() {
        __syncwarp();
        ptx::cluster_wait();
    }

    __device__ __forceinline__ void take_turns() {
        const int side = warp_ / 4;
        const int warp = warp_ % 4;
        if (warp_ == 5) touch_params();
        make_barriers();  // these warps see them behind the barrier of the queries
        if constexpr (Shared) {
            __syncwarp();
            ptx::cluster_arrive_relaxed();
        } else {
            ptx::named_barrier_arrive(kPairedStart, kThreads);
        }
        Queries<Shared> queries(params_, base_, token_, first_head_, warp_ * 32 + lane_);
        queries.load(kHalfSlabs);
        const int blocks = live_share(params_, token_, rank_).blocks();
        queries.load(0);
        queries.store(control_);
        if constexpr (Shared) ptx::cluster_wait();
        Turns<Split, Shared> turns(params_, control_, base_, side, warp, lane_);
        turns.run(blocks);
        __syncwarp();
        if constexpr (Shared) ptx::cluster_arrive();
        leave_sums(turns, side, warp);
        ptx::named_barrier_arrive(kSummedBarrier, kThreads);
        if constexpr (Split) {
            merge(turns, side, warp);
        } else {
            ptx::named_barrier(kTurnBarrier, kTurnThreads);
            store(turns, side, warp);
            if constexpr (Shared) leave();
        }
    }

    /// A warpgroup's sums and largest scores of each head, and the references that both have in the end.
    __device__ __forceinline__ void leave_sums(const Turns<Split, Shared>& turns, int side, int warp) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = turns.sum_[h] + __shfl_xor_sync(~0U, turns.sum_[h], 1);
            sum += __shfl_xor_sync(~0U, sum, 2);
            float top = max_or_nan(turns.top_[h], __shfl_xor_sync(~0U, turns.top_[h], 1));
            top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
            if ((lane_ & 3) == 0) {
                const int own = warp * 16 + lane_ / 4 + 8 * h;
                control_.ended.sum[side][own] = sum;
                control_.ended.top[side][own] = top;
                if (side == 0) control_.reference[0][own] = turns.reference_[h];
            }
        }
    }
    [[nodiscard]] __device__ __forceinline__ HeadSums sums_of(int own) const {
        HeadSums all;
        all.top = max_or_nan(control_.ended.top[0][own], control_.ended.top[1][own]);
        all.reference = control_.reference[0][own];
        all.sum = control_.ended.sum[0][own] + control_.ended.sum[1][own];
        return all;
    }
    [[nodiscard]] __device__ __forceinline__ bool is_real(int own) const { return first_head_ + own < params_.heads; }
    [[nodiscard]] __device__ __forceinline__ float own_sink(int own) const {
        return is_real(own) ? sink_of(params_, first_head_ + own) : -kInfinity;
    }

    __device__ __forceinline__ void store(const Turns<Split, Shared>& turns, int side, int warp) {
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int own = warp * 16 + lane_ / 4 + 8 * h;
            factor[h] = factor_of(sums_of(own), own_sink(own));
        }
        WarpOutput<kHalfDims>{params_, token_, first_head_ + warp * 16, (1 - side) * kHalfDims, lane_}.store(turns.out_,
                                                                                                             factor);
    }

    __device__ __forceinline__ void merge(const Turns<Split, Shared>& turns, int side, int warp) {
        const Merge merging = this->merging();
        ptx::named_barrier(kSideBarrier + side, 128);  // this side is done with rows
        ptx::cluster_wait();                           // and nobody needs queries any more
        float kept[64];
        merging.divide(turns.out_, kept);
        merging.give();
        ptx::named_barrier(kFactorsBarrier, kThreads);
        merging.await();
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        merging.add(kept);
        const int first_dim = (1 - side) * kHalfDims + rank_ * kKeptDims;
        WarpOutput<kKeptDims>{params_, token_, first_head_ + warp * 16, first_dim, lane_}.store(kept, {1.0F, 1.0F});
        leave();
    }
    [[nodiscard]] __device__ __forceinline__ Merge merging() const {
        return Merge(params_, control_, shared_, rank_, warp_, lane_);
    }

    const Params& params_;
    unsigned char* shared_;
    CodesControl& control_;
    std::uint32_t base_;
    int rank_, token_, first_head_, warp_, lane_;
};

template <bool Split, bool Shared>
__global__ void __launch_bounds__(kThreads, 1) paired_codes(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const int item = Shared ? static_cast<int>(blockIdx.x / 2) : over_splits(params, static_cast<int>(blockIdx.x));
    CodesBlock<Split, Shared>(params, shared, item).run();
}

}  // namespace tokamak::mla::cuda::paired_codes
