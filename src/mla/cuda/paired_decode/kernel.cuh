// SPDX-License-Identifier: Apache-2.0
// Sparse attention of one token and 64 heads for bf16 rows, by a block or a cluster of `splits` blocks, each with its
// share of the selected rows: two warpgroups score blocks of rows in turns and have half of the output each, a third
// one brings rows. See docs/kernels/sparse_mla_paired.md.
#pragma once

#include "mla/cuda/paired_decode/bring.cuh"
#include "mla/cuda/paired_decode/merge.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Registers of a thread by role.
inline constexpr int kTurnRegisters = 224;
inline constexpr int kBringRegisters = 56;

/// Blocks that start at once would go on in step for a third of their time: all ask for rows when all others do, and
/// the clock falls to 1.60 GHz (1.75 later). So the first block of a multiprocessor asks for queries and rows later by
/// its token, which costs little: memory has no time for all at once anyway.
inline constexpr unsigned kManyBlocks = 80;
inline constexpr unsigned kFirstBlocks = 132;  ///< those of the multiprocessors of a whole chip
inline constexpr unsigned kStartGroups = 2;
inline constexpr unsigned kStartStep = 4000;  ///< cycles from a group of tokens to the next

/// Everything about one block. `Split`: of a cluster.
template <int Dim, bool Split>
class PairedBlock {
    using S = PairedShape<Dim>;

  public:
    __device__ __forceinline__ PairedBlock(const Params& params, unsigned char* shared)
        : params_(params),
          shared_(shared),
          control_(*reinterpret_cast<PairedControl*>(shared + S::kControl)),
          base_(ptx::shared_address(shared)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),  // uniform, and known to be
          lane_(static_cast<int>(threadIdx.x) % 32),
          born_(static_cast<unsigned>(clock())) {}

    __device__ __forceinline__ void run(const Place& place) {
        if (warp_ >= kTurnThreads / 32) {
            ptx::set_registers<kPairedThreads, kBringRegisters>();
            bring(place);
        } else {
            ptx::set_registers<kPairedThreads, kTurnRegisters>();
            take_turns(place);
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static int pairs_of(const Columns& columns) {
        return (columns.blocks() + 1) / 2;
    }

    /// By all warps of mathematics: a warp that initialises a barrier per lane does so lane by lane, 50 cycles each.
    __device__ __forceinline__ void make_barriers(int rank) {
        if (lane_ == 0) {
            const int buffer = warp_ / 4;
            const int half = warp_ / 2 % 2;
            const int first = warp_ % 2 * 2;
            ptx::barrier_init(&control_.empty[buffer][half][first], 4);
            ptx::barrier_init(&control_.empty[buffer][half][first + 1], 4);
            if (warp_ % 2 == 0) ptx::barrier_init(&control_.full[buffer][half], 128);
            if (warp_ % 4 == 1) ptx::barrier_init(&control_.weighed[buffer], 4);
            if (warp_ == 3) ptx::barrier_init(&control_.ahead, 4);
            if constexpr (Split) {
                if (warp_ == 7) {
                    ptx::barrier_init(&control_.told, 1);
                    ptx::barrier_init(&control_.landed, 1);
                    Merge<Dim>(params_, control_, shared_, rank).expect();
                }
            }
        }
        ptx::fence_barrier_init();
    }

    /// Waits for this block's turn to ask.
    __device__ __forceinline__ void stagger(const Place& place) const {
        if (Split || gridDim.y * gridDim.z < kManyBlocks) return;
        if (blockIdx.z * gridDim.y + blockIdx.y >= kFirstBlocks) return;
        const unsigned cycles = static_cast<unsigned>(place.token) % kStartGroups * kStartStep;
        while (static_cast<unsigned>(clock()) - born_ < cycles) {
        }
    }

    [[nodiscard]] __device__ __forceinline__ bool exists(int token) const {
        return params_.num_tokens == nullptr || token < *params_.num_tokens;
    }

    __device__ __forceinline__ void bring(const Place& place) {
        const LiveColumns live(params_.first, place.token);
        PairRows rows;
        const int warp = warp_ - kTurnThreads / 32;
        const int row = warp * kPerWarp + lane_ % kPerWarp;
        Columns columns = full_columns(params_.first, place.rank);
        rows.start(params_, columns, place.token, row, lane_);
        touch_first();
        ptx::named_barrier(kPairedStart, kPairedThreads);
        if (!exists(place.token)) return;
        Bringer<Dim> bringer(control_, base_, warp, lane_);
        const Columns known = live.of<Split>(params_, place.token, place.rank);
        if (known.first != columns.first || known.last != columns.last ||
            known.in_first_pool != columns.in_first_pool) {
            columns = known;
            rows.start(params_, columns, place.token, row, lane_);
        }
        stagger(place);
        bringer.run(params_, place.token, rows, pairs_of(columns));
        touch_last();
        ptx::copy_wait<0>();
        __syncwarp();
        end(warp * 32 + lane_);
    }

    /// Brings the line of a parameter, which is never negative. (What is not used, ptxas does not read.)
    __device__ __forceinline__ static void touch(std::int32_t parameter) {
        asm volatile("{\n .reg .pred p;\n setp.lt.s32 p, %0, 0;\n @p trap;\n}" ::"r"(parameter));
    }
    /// Brings what the first rows need of the parameters while their indices are on their way.
    __device__ __forceinline__ void touch_first() const {
        const PoolParams& pool = params_.pools[0];
        touch(pool.row_bytes);
        touch(params_.splits);
    }

    /// Brings what the end needs of the parameters while the last blocks are multiplied.
    __device__ __forceinline__ void touch_last() const {
        touch(params_.tokens);
        touch(params_.value_dim);
    }

    /// The producers see to the sums, as they have nothing else to do while outputs are stored or brought to their
    /// owners.
    __device__ __forceinline__ void end(int thread) {
        const Place place = place_of();  // anew: there was no register for it
        if constexpr (Split) ptx::cluster_arrive_relaxed();
        ptx::named_barrier(kSummedBarrier, kPairedThreads);
        if constexpr (Split) ptx::cluster_wait();
        if (thread < kHeads) {
            const float sink = own_sink(place, thread);
            const HeadSums all = Split ? told_sums(place.rank, thread, sink) : sums_of(thread);
            if (place.rank == 0 && is_real(place, thread))
                store_statistics(params_, place.token, place.first_head + thread, all, sink);
        }
        if constexpr (!Split) return;
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        ptx::named_barrier(kFactorsBarrier, kPairedThreads);
        const Merge<Dim> merging(params_, control_, shared_, place.rank);
        merging.await();
        merging.add(place.token, place.first_head, warp_ * 32 + lane_);
        leave();
    }
    /// Of all splits.
    [[nodiscard]] __device__ __forceinline__ HeadSums told_sums(int rank, int own, float sink) {
        const Merge<Dim> merging(params_, control_, shared_, rank);
        merging.tell(own, sums_of(own));
        return merging.factors(own, sink);
    }

    /// Nobody leaves while others still copy to its memory or out of it.
    __device__ __forceinline__ static void leave() {
        __syncwarp();
        ptx::cluster_wait();
    }

    __device__ __forceinline__ void take_turns(const Place& place) {
        const int side = warp_ / 4;
        const int warp = warp_ % 4;
        const int thread = warp_ * 32 + lane_;
        const LiveColumns live(params_.first, place.token);
        const Queries<Dim> queries(params_, base_, place, thread);
        stagger(place);
        queries.template start<0>();
        make_barriers(place.rank);
        ptx::named_barrier_arrive(kPairedStart, kPairedThreads);
        const int pairs = pairs_of(live.of<Split>(params_, place.token, place.rank));
        const bool real = exists(place.token);
        if (!real) return ptx::copy_wait<0>();
        ptx::named_barrier(kAskedBarrier, kPairedThreads);
        queries.template start<1>();
        queries.finish();
        Turns<Dim, Split> turns(params_, control_, base_, side, warp, lane_);
        turns.run(pairs);
        __syncwarp();
        if constexpr (Split) {
            merge(turns, side, warp);
        } else {
            ptx::named_barrier(kSideBarrier + side, 128);  // this side is done with queries, as the other one is
            store(turns, side, warp);
        }
    }

    /// The second side, which ends the turns, has the last references; the first one's sum is relative to those that it
    /// had then. (Until both sides have followed the last ones nobody need wait.)
    [[nodiscard]] __device__ __forceinline__ HeadSums sums_of(int own) const {
        HeadSums all;
        all.top = max_or_nan(control_.top[0][own], control_.top[1][own]);
        all.reference = control_.reference[1][own];
        const float before = control_.reference[0][own];
        const float factor = before == all.reference ? 1.0F : exp2_fast(before - all.reference);
        all.sum = fmaf(control_.sum[0][own], factor, control_.sum[1][own]);
        return all;
    }
    [[nodiscard]] __device__ __forceinline__ bool is_real(const Place& place, int own) const {
        return place.first_head + own < params_.heads;
    }
    [[nodiscard]] __device__ __forceinline__ float own_sink(const Place& place, int own) const {
        return is_real(place, own) ? sink_of(params_, place.first_head + own) : -kInfinity;
    }

    __device__ __forceinline__ void store(const Turns<Dim, Split>& turns, int side, int warp) {
        const Place place = place_of();  // anew: during the turns there is no register for it
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int own = warp * 16 + lane_ / 4 + 8 * h;
            factor[h] = factor_of(sums_of(own), own_sink(place, own));
        }
        const WarpOutput output = {params_,          base_ + warp_ * WarpOutput::kBytes,
                                   place.token,      place.first_head + warp * 16,
                                   side * kHalfDims, lane_};
        output.store(turns.out_, factor);
    }

    __device__ __forceinline__ void merge(const Turns<Dim, Split>& turns, int side, int warp) {
        const Place place = place_of();  // anew
        const Merge<Dim> merging(params_, control_, shared_, place.rank);
        ptx::named_barrier(kSideBarrier + side, 128);  // this side is done with rows
        ptx::cluster_wait();                           // and nobody needs queries any more
#pragma unroll
        for (int tile = 0; tile < kHalfSlabs; ++tile) {
            merging.stage(turns.out_ + 32 * tile, side, tile, warp, lane_);
            ptx::fence_shared_async();
            __syncwarp();
            merging.push(side, tile, warp);
        }
        ptx::named_barrier(kFactorsBarrier, kPairedThreads);
        merging.await();
        __syncwarp();
        ptx::cluster_arrive_relaxed();
        merging.add(place.token, place.first_head, warp_ * 32 + lane_);
        leave();
    }

    const Params& params_;
    unsigned char* shared_;
    PairedControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    unsigned born_;  ///< cycle
};

template <int Dim, bool Split>
__global__ void __launch_bounds__(kPairedThreads, 1) paired_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Place place = place_of();
    // By an index, which is 0, so that it is read here: it is in a line of the parameters that is not needed soon.
    if (place.token >= kMostTokens && place.token >= (&params.tokens)[place.token >> 30]) return;
    PairedBlock<Dim, Split>(params, shared).run(place);
}

}  // namespace tokamak::mla::cuda::paired_decode
