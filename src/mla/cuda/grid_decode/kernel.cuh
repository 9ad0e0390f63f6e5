// SPDX-License-Identifier: Apache-2.0
// The grid form for 32 heads a block and fp8 rows of 512: few tokens, whose splits take the whole chip. All blocks run
// at once (a cooperative launch), with all rows of their share. Sixteen warps do the mathematics, four bring rows,
// weigh what is left over and settle sums. See docs/kernels/sparse_mla_grid.md.
#pragma once

#include <cooperative_groups.h>

#include "mla/cuda/grid_decode/exchange.cuh"
#include "mla/cuda/grid_decode/queries.cuh"
#include "mla/cuda/grid_decode/rows.cuh"
#include "mla/cuda/grid_decode/weigh.cuh"
#include "mla/cuda/wide_decode/instances.h"

namespace tokamak::mla::cuda::grid_decode {

using wide_decode::Published;

class GridBlock {
    using S = Shape;
    /// Scoring warps come first here, in the block they are behind the helping ones.
    __device__ __forceinline__ static int warp_of(int in_block) {
        return in_block < kHelperWarps ? kDirectWarps + in_block : in_block - kHelperWarps;
    }

  public:
    __device__ __forceinline__ GridBlock(const Params& params, const Published& published, unsigned char* shared)
        : params_(params),
          base_(ptx::shared_address(shared)),
          control_(*reinterpret_cast<GridControl*>(shared + S::kControl)),
          warp_(warp_of(__shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0))),
          lane_(static_cast<int>(threadIdx.x) % 32),
          rank_(static_cast<int>(blockIdx.x)),
          token_(static_cast<int>(params.first.of_splits + blockIdx.z)),
          first_head_(static_cast<int>(blockIdx.y) * kGridHeads),
          board_(published.at +
                     static_cast<std::int64_t>(blockIdx.z * gridDim.y + blockIdx.y) * (kGridSplits * kBoardBytes),
                 rank_) {}

    __device__ __forceinline__ void run() const {
        if (warp_ < kDirectWarps)
            calculate();
        else
            help();
    }

  private:
    [[nodiscard]] __device__ __forceinline__ bool exists() const {
        return params_.num_tokens == nullptr || token_ < *params_.num_tokens;
    }
    /// Of the scoring warps' threads, or of the helping ones'.
    [[nodiscard]] __device__ __forceinline__ int thread() const { return warp_ * 32 + lane_; }
    [[nodiscard]] __device__ __forceinline__ static int helping_thread() { return static_cast<int>(threadIdx.x); }

    /// By all scoring warps: a warp that initialises a barrier per lane does so lane by lane, 50 cycles each.
    __device__ __forceinline__ void prepare() const {
        if (lane_ > 0) return;
#pragma unroll
        for (int i = warp_; i < 2 * S::kTurns; i += kDirectWarps) ptx::barrier_init(&control_.rows[0][0] + i, 64);
        if (warp_ == 11) ptx::barrier_init(&control_.described, kHelperWarps);
        if (warp_ == 10) ptx::barrier_init(&control_.settled, kHelperWarps);
        if (warp_ == 0) board_.clear();
    }

    __device__ __forceinline__ void calculate() const {
        GridQueries queries(warp_, lane_);
        queries.load(params_, token_, first_head_);
        prepare();
        auto cleared = cooperative_groups::this_grid().barrier_arrive();
        if (!exists()) return;
        queries.store(params_, control_, base_);
        ptx::named_barrier(kReadBarrier, kMainThreads);  // queries are there
        score_and_weigh([&] { cooperative_groups::this_grid().barrier_wait(std::move(cleared)); });
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        GridValues(base_, ptx::shared_address(control_.ratio), warp_, lane_)
            .multiply([&](int heads, const Output& out) { board_.publish(out, heads, warp_, lane_); });
        ptx::named_barrier(kReadBarrier, kMainThreads);
        if (thread() == 0) board_.announce();
        const GridBoard::Item item = board_.item_of(thread());
        const int head = first_head_ + item.head;
        const bool stores = head < params_.heads && item.dim < params_.value_dim;
        const std::int64_t at = token_ * params_.out_token_stride + head * params_.out_head_stride + item.dim;
        board_.await(lane_);
        GridBoard::Parts parts;
        board_.load(thread(), parts);
        ptx::barrier_wait(&control_.settled, 0);
        float2 sums[GridBoard::kThreadPairs];
        GridBoard::add(parts, &control_.factor[item.head][0], sums);
        if (stores) store_dims(params_, at, {sums[0].x, sums[0].y, sums[1].x, sums[1].y});
    }

    template <typename Meet>
    __device__ __forceinline__ void score_and_weigh(const Meet& meet) const {
        const Quad quad(warp_);
        const GridScorer scorer(control_, base_, quad, lane_, params_.scale_log2);
        ScoreTile score = {};
#pragma unroll
        for (int turn = 0; turn < S::kRestTurn; turn += 2) {
            ptx::barrier_wait(&control_.rows[quad.half][turn], 0);
            ptx::barrier_wait(&control_.rows[quad.half][turn + 1], 0);
            scorer.score(turn, score);
        }
        ptx::barrier_wait(&control_.rows[quad.half][S::kRestTurn], 0);
        scorer.score_rest();
        ptx::named_barrier(kRowsBarrier + quad.index, 128);
        scorer.add_shares(score);
        float rest = scorer.add_rest();
        GridWeigher weigher(control_, base_, quad, lane_);
        ptx::barrier_wait(&control_.described, 0);
        weigher.read_rows();
        weigher.weigh(score, rest, meet);
    }

    __device__ __forceinline__ void help() const {
        if (helping_thread() % 4 == 0) board_.mark_sums(helping_thread() / 4);
        // The first thread's warp waits for its stores and for the grid, so that no other has to.
        if (helping_thread() < 32)
            bring<true>(0);
        else
            bring<false>(static_cast<unsigned>(warp_ - kDirectWarps - 1));
        if (!exists()) return;
        ptx::named_barrier(kWeighedBarrier, kDirectThreads);
        settle(params_, control_, board_, token_, first_head_, helping_thread(), rank_ == 0);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled);
    }
    template <bool Late>
    __device__ __forceinline__ void bring(unsigned warp) const {
        const BroughtRow own = brought_row<Late>(warp, static_cast<unsigned>(lane_));
        const Finder<512, true> finder(params_, token_, rank_, static_cast<int>(own.row()), own.exists);
        auto cleared = cooperative_groups::this_grid().barrier_arrive();
        if (!exists()) return;
        const Found found(finder);
        copy_rows<Late>(params_, control_, base_, found, warp, static_cast<unsigned>(lane_));
        ptx::copy_commit();
        ptx::copy_wait<0>();
        __syncwarp();
        if (own.exists) describe(control_, base_, own, found.own.valid);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.described);
        cooperative_groups::this_grid().barrier_wait(std::move(cleared));
    }

    const Params& params_;
    std::uint32_t base_;
    GridControl& control_;
    int warp_, lane_;
    int rank_, token_, first_head_;
    GridBoard board_;
};

__global__ void __launch_bounds__(kDirectThreads, 1)
    grid_decode_512(const __grid_constant__ Params params, const __grid_constant__ Published published) {
    extern __shared__ __align__(1024) unsigned char shared[];
    GridBlock(params, published, shared).run();
}

}  // namespace tokamak::mla::cuda::grid_decode
