// SPDX-License-Identifier: Apache-2.0
// The form that has all rows of a share at once, as f16: few tokens, whose splits take the whole chip (a cooperative
// launch). Every warp brings and converts eight rows; two warpgroups score half of the rows each and make weights, then
// four warpgroups add values, 128 dimensions each. See docs/kernels/sparse_mla_whole.md.
#pragma once

#include "mla/cuda/whole_decode/exchange.cuh"
#include "mla/cuda/whole_decode/queries.cuh"
#include "mla/cuda/whole_decode/rows.cuh"
#include "mla/cuda/whole_decode/scores.cuh"

namespace tokamak::mla::cuda::whole_decode {

using wide_decode::Published;

class WholeBlock {
    using L = WholeLayout;

  public:
    __device__ __forceinline__ WholeBlock(const Params& params, const Published& published, unsigned char* shared)
        : params_(params),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<WholeControl*>(shared + L::kControl)),
          warp_(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0)),
          lane_(static_cast<int>(threadIdx.x) % 32),
          place_{static_cast<int>(blockIdx.x), static_cast<int>(params.first.of_splits + blockIdx.z),
                 static_cast<int>(blockIdx.y) * kHeads},
          board_(params, published, static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y)) {}

    __device__ __forceinline__ void run() const {
        if (!bring()) return;
        if (warp_ >= kMathWarps) {
            help();
            return;
        }
        if (warp_ < kScoreThreads / 32) {
            WholeScores score;
            const WholeScorer scorer(control_, base_, warp_ / 4, warp_ % 4, lane_);
            scorer.multiply(score);
            scorer.weigh(score);
            ptx::named_barrier_arrive(kSumsBarrier, kSumsThreads);
        }
        ptx::named_barrier(kWeightsBarrier, kWeightsThreads);
        WholeSums sums;
        add_values(sums);
        publish(sums, board_, base_, place_.rank, warp_, lane_);
        gather(control_.params, control_, board_, base_, place_, warp_, lane_);
    }

  private:
    /// Rows and queries; false: the device count takes the block's token away.
    [[nodiscard]] __device__ __forceinline__ bool bring() const {
        if (leaves()) return false;
        const int four = 2 * (warp_ - (kMathWarps - kQueryWarps));
        const bool asks = four >= 0 && warp_ < kMathWarps;
        WholeQueries first(base_, four, lane_);
        WholeQueries second(base_, four + 1, lane_);
        if (asks) {
            first.load(params_, place_);
            second.load(params_, place_);
            first.settle(params_, place_, control_);  // what finds rows needs its registers
        }
        if (warp_ >= kUnits) return true;
        Unit unit(base_, unit_of(warp_), lane_);
        const flat_decode::Finder<512, true> finder(params_, place_.token, place_.rank, unit.row(), true);
        const auto found = finder.locate();
        unit.load(found);
        if (asks) {
            second.settle(params_, place_, control_);
            ptx::named_barrier_arrive(kFirstHalfBarrier, kFirstHalfThreads);
        }
        unit.convert(control_);
        if (warp_ >= kMathWarps) ptx::named_barrier_arrive(kMarkBarrier, kMarkThreads);
        // Those who multiply wait, and order these ordinary stores before the tensor cores' reads.
        if (warp_ >= 4 && unit.row() < kHalfRows) ptx::named_barrier_arrive(kFirstHalfBarrier, kFirstHalfThreads);
        if (unit.row() >= kHalfRows) ptx::named_barrier_arrive(kSecondHalfBarrier, kSecondHalfThreads);
        return true;
    }
    [[nodiscard]] __device__ __forceinline__ bool leaves() const {
        return params_.num_tokens != nullptr && place_.token >= *params_.num_tokens;
    }
    /// One warpgroup after the other, so that output is on its way while others are made.
    __device__ __forceinline__ void add_values(WholeSums& sums) const {
        const int group = warp_ / 4;
        const std::uint32_t weights = ptx::wgmma_tile_word(base_ + L::kWeights);
        const std::uint32_t rows = base_ + L::kRowsAt + group * (2 * L::kRowSlab);
        ptx::fence_shared_async();
        if (group > 0) ptx::named_barrier(kTurnBarrier - 1 + group, 256);
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < kWholeRows / 16; ++s)
            ptx::wgmma_f16(sums, ptx::wgmma_step(weights + s / 4 * (L::kQuerySlab / 16), s % 4),
                           ptx::wgmma_columns(rows + s * (2 * L::kUnit), L::kUnit, L::kRowSlab), s > 0);
        ptx::wgmma_commit();
        if (group < 3) ptx::named_barrier_arrive(kTurnBarrier + group, 256);
        ptx::wgmma_wait<0>();
    }

    /// Two warps have a head each thread, one marks this split's places and waits for the others' marks.
    __device__ __forceinline__ void help() const {
        const int helper = warp_ - kMathWarps;
        if (helper == 3) {
            if (lane_ == 0) control_.params = params_;  // one by one: indexed loads of constants hold everybody up
            ptx::named_barrier_arrive(kWeightsBarrier, kWeightsThreads);
            return;
        }
        if (helper == 2) {
            if (lane_ == 0) {
                ptx::barrier_init(&control_.merged, 2);
                ptx::barrier_init(&control_.marked, 1);
            }
            ptx::named_barrier(kMarkBarrier, kMarkThreads);
            mark(board_, place_.rank, lane_);
            __syncwarp();
            ptx::named_barrier_arrive(kWeightsBarrier, kWeightsThreads);
            board_.raise(place_.rank, kFirstFlag, kWholeSplits, lane_);
            board_.await(place_.rank, kFirstFlag, kWholeSplits, lane_);
            ptx::named_barrier_arrive(kHeadsBarrier, kHeadsThreads);
            if (lane_ == 0) ptx::barrier_arrive(&control_.marked);
            return;
        }
        const int h = helper * 32 + lane_;
        const int head = place_.first_head + h;
        const bool real = head < params_.heads;
        const float sink = real ? sink_of(params_, head) : -kInfinity;
        ptx::named_barrier(kSumsBarrier, kSumsThreads);
        ptx::named_barrier(kHeadsBarrier, kHeadsThreads);  // marks come first
        const float both = max_or_nan(control_.above[0][h], control_.above[1][h]);
        board_.store_sums(
            place_.rank, h, both == -kInfinity ? kNoReference : both,
            control_.sum[0][h] * control_.half_factor(0, h) + control_.sum[1][h] * control_.half_factor(1, h));
        const HeadSums sums = merge_heads(board_, control_, h, sink);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.merged);
        if (real && place_.rank == 0) store_statistics(params_, place_.token, head, sums, sink);
    }

    const Params& params_;
    std::uint32_t base_;
    WholeControl& control_;
    int warp_, lane_;
    WholePlace place_;
    Board board_;
};

__global__ void __launch_bounds__(kWholeThreads, 1)
    whole_decode_512(const __grid_constant__ Params params, const __grid_constant__ Published published) {
    extern __shared__ __align__(1024) unsigned char shared[];
    WholeBlock(params, published, shared).run();
}

}  // namespace tokamak::mla::cuda::whole_decode
