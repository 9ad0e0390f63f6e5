// SPDX-License-Identifier: Apache-2.0
// Two warpgroups that score the blocks of rows in turns; each has half of the output's dimensions for all blocks. Heads
// are the rows of all products, so that a warp knows everything about its 16 heads, and thread t of both warpgroups has
// the same two. Both run the same instructions: as two copies these did not stay where a multiprocessor keeps them, and
// one side waited 650 cycles a pair of blocks for its own.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/wgmma_16bit.cuh"
#include "mla/cuda/paired_decode/shape.cuh"
#include "mla/cuda/paired_decode/wide_products.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Side 0 scores even blocks and has the left half of the output, side 1 odd blocks and the right half.
template <int Dim, bool Split>
class Turns {
    using S = PairedShape<Dim>;
    static constexpr std::uint32_t kSlabWords = kSlabBytes / 16;  ///< as descriptors count
    static constexpr std::uint32_t kBlockWords = S::kBlockBytes / 16;

  public:
    /// `warp`: of its side.
    __device__ __forceinline__ Turns(const Params& params, PairedControl& control, std::uint32_t base, int side,
                                     int warp, int lane)
        : params_(params),
          control_(control),
          base_(base),
          word_(ptx::wgmma_tile_word(base)),
          side_(side),
          warp_(warp),
          lane_(lane) {
#pragma unroll
        for (float& v : out_) v = 0.0F;
    }

    /// Both sides add block by block in the same order, so that references only move forward.
    __device__ __forceinline__ void run(int pairs) {
        if (pairs == 0) {
            leave();
            await_queries();  // for their place, and the other side's sums
            if (Split) ptx::cluster_arrive_relaxed();
        }
#pragma unroll 1
        for (int pair = 0; pair < pairs; ++pair) {
            score(pair);
            valid_ = *reinterpret_cast<const volatile std::uint64_t*>(control_.valid[(2 * pair + side_) % 4]);
            if (side_ == 1) await_other(pair);
            ptx::wgmma_wait<0>();
            // The last ones leave the queries' place to what other splits send.
            if (Split && pair + 1 == pairs) ptx::cluster_arrive_relaxed();
            if (side_ == 1) {
                follow();
                add_other<1>();
            }
            weigh(2 * pair + side_);
            if (pair + 1 == pairs) leave();
            publish();
            release_as_done(0, 1, side_ == 1);
            rescale();
            add_own();
            release_as_done(side_, 0, true);
            if (side_ == 0) {
                await_other(pair);
                follow();
                add_other<0>();
                release_as_done(1, 1, true);  // across the loop's end ptxas would serialise all products
            }
        }
    }

    float out_[128];
    float sum_[2] = {0.0F, 0.0F};
    float reference_[2] = {kNoReference, kNoReference};
    float top_[2] = {-kInfinity, -kInfinity};

  private:
    /// Starts the scores of this side's block of a pair, half by half as they land.
    __device__ __forceinline__ void score(int pair) {
        if (side_ == 1) {
            if (pair == 0) await_queries();
            ptx::barrier_wait(&control_.ahead, pair & 1U);
        }
        const std::uint32_t rows = S::kRows / 16 + side_ * kBlockWords;
        // Side 1 begins with the right half.
        const std::uint32_t first = word_ + side_ * (kHalfSlabs * kSlabWords);
        const std::uint32_t second = word_ - side_ * (S::kRight * kSlabWords);
#pragma unroll
        for (int position = 0; position < S::kSlabs; ++position) {
            if (position == 0 || position == kHalfSlabs) {
                ptx::barrier_wait(&control_.full[side_][position == 0 ? 0 : 1], pair & 1U);
                if (position > 0 && pair == 0 && side_ == 0) await_queries();
                fence_acquire_async();
                ptx::wgmma_fence();
            }
            const std::uint32_t slab = (position < S::kRight ? first : second) + position * kSlabWords;
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<false, false>(score_, ptx::wgmma_step(slab, k), ptx::wgmma_step(slab + rows, k),
                                               position + k > 0);
            ptx::wgmma_commit();
        }
        // The second side starts when the first one has issued all: the tensor cores would serve both alike, and then
        // wait for two softmaxes at once.
        if (side_ == 0 && lane_ == 0) ptx::barrier_arrive(&control_.ahead);
    }

    /// Until the second half of the queries is there; each side where it needs it.
    __device__ __forceinline__ void await_queries() const {
        ptx::copy_wait<0>();
        ptx::fence_shared_async();
        ptx::named_barrier(kAllQueriesBarrier, kTurnThreads);
    }

    /// Lets rows of `half` go, sixteen at a time, as the four products that were started last end.
    __device__ __forceinline__ void release_as_done(int buffer, int half, bool read) const {
        const bool lets_go = read && lane_ == 0;
        std::uint64_t* const empty = control_.empty[buffer][half];
        ptx::wgmma_wait<3>();
        if (lets_go) ptx::barrier_arrive(&empty[0]);
        ptx::wgmma_wait<2>();
        if (lets_go) ptx::barrier_arrive(&empty[1]);
        ptx::wgmma_wait<1>();
        if (lets_go) ptx::barrier_arrive(&empty[2]);
        ptx::wgmma_wait<0>();
        if (lets_go) ptx::barrier_arrive(&empty[3]);
    }

    /// Scores to weights relative to this side's references, which move if they must.
    __device__ __forceinline__ void weigh(int block) {
        float scale = params_.scale_log2;
        float score[32];  // products are under way: their sums must not be written
#pragma unroll
        for (int i = 0; i < 32; ++i) score[i] = score_[i];
        if (!(scale > 0.0F)) {
            const float sign = scale < 0.0F ? -1.0F : scale;
            scale = scale < 0.0F ? -scale : 1.0F;
#pragma unroll
            for (float& s : score) s *= sign;
        }
        mask(block, score);
        float top[2] = {score[0], score[2]};
#pragma unroll
        for (int i = 1; i < 16; ++i) {
            top[0] = max_or_nan(top[0], score[i / 2 * 4 + i % 2]);
            top[1] = max_or_nan(top[1], score[i / 2 * 4 + 2 + i % 2]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) top[h] *= scale;
        if (params_.max_logits != nullptr) {
#pragma unroll
            for (int h = 0; h < 2; ++h) top_[h] = max_or_nan(top_[h], top[h]);
        }
        moved_ = false;
        const bool exceeds = !(top[0] <= reference_[0] + kPatienceBits) || !(top[1] <= reference_[1] + kPatienceBits);
        if (__any_sync(~0U, exceeds)) move(top);
        float sum[2] = {0.0F, 0.0F};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int at = i * 2;
            const float reference = reference_[i % 2];
            const float a = exp2_fast(fmaf(score[at], scale, -reference));
            const float b = exp2_fast(fmaf(score[at + 1], scale, -reference));
            sum[i % 2] += a + b;
            weight_[i / 4][i % 4] = pack_bf16(a, b);
        }
        sum_[0] += sum[0];
        sum_[1] += sum[1];
    }

    __device__ __forceinline__ void mask(int block, float (&score)[32]) const {
        const std::uint64_t valid = valid_;
        if (valid == ~std::uint64_t{0}) return;
        const std::uint64_t own = valid >> (2 * (lane_ & 3));
#pragma unroll
        for (int i = 0; i < 32; ++i)
            if ((own >> (i / 4 * 8 + i % 2) & 1U) == 0) score[i] = -kInfinity;
    }

    /// References to the largest scores of their heads, where these exceed them by too much.
    __device__ __forceinline__ void move(const float (&top)[2]) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float all = max_or_nan(top[h], __shfl_xor_sync(~0U, top[h], 1));
            all = max_or_nan(all, __shfl_xor_sync(~0U, all, 2));
            factor_[h] = 1.0F;
            if (!(all <= reference_[h] + kPatienceBits)) {
                factor_[h] = exp2_fast(reference_[h] - all);
                reference_[h] = all;
                sum_[h] *= factor_[h];
            }
        }
        moved_ = true;
    }
    /// Sums to the references that moved; no product of them is under way.
    __device__ __forceinline__ void rescale() {
        if (!moved_) return;
        moved_ = false;
        ptx::wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < 128; ++i) out_[i] *= factor_[i / 2 % 2];
    }

    /// Leaves this side's sums and largest scores, and for the case that there are no weights its references: all that
    /// the other side and the producers need to end, as soon as the last weights are known.
    __device__ __forceinline__ void leave() const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = sum_[h] + __shfl_xor_sync(~0U, sum_[h], 1);
            sum += __shfl_xor_sync(~0U, sum, 2);
            float top = max_or_nan(top_[h], __shfl_xor_sync(~0U, top_[h], 1));
            top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
            if ((lane_ & 3) == 0) {
                const int own = warp_ * 16 + lane_ / 4 + 8 * h;
                control_.sum[side_][own] = sum;
                control_.top[side_][own] = top;
                control_.reference[side_][own] = reference_[h];
            }
        }
        ptx::named_barrier_arrive(kSummedBarrier, kPairedThreads);
    }

    /// Leaves weights and references for the other side. It is the reader that fences them: a fence waits for products
    /// that are under way, of which there are none where it stands.
    __device__ __forceinline__ void publish() {
        const std::uint32_t tile = base_ + (side_ == 0 ? S::kFirstWeights : S::kSecondWeights);
        // Chunk 2 k + c of a row is 2 k places from chunk c, as the swizzle has it.
        const std::uint32_t at = tile + swizzled(warp_ * 16 + lane_ % 16, lane_ / 16);
        // The rotary slab, whose place they take, may still be scored by another warp.
        if (S::kFirstWeights < S::kSecondWeights && side_ == 0) ptx::named_barrier(kScoredBarrier, 128);
#pragma unroll
        for (int k = 0; k < 4; ++k) store_matrix(at ^ (k << 5), weight_[k]);
        if ((lane_ & 3) == 0) {
            control_.reference[side_][warp_ * 16 + lane_ / 4] = reference_[0];
            control_.reference[side_][warp_ * 16 + lane_ / 4 + 8] = reference_[1];
        }
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.weighed[side_]);
    }
    /// Until the other side's weights are there. The second side, whose scores are under way, waits for these anyway.
    __device__ __forceinline__ void await_other(int pair) {
        ptx::barrier_wait(&control_.weighed[1 - side_], pair & 1U);
        const volatile float* const reference = control_.reference[1 - side_];
        theirs_[0] = reference[warp_ * 16 + lane_ / 4];
        theirs_[1] = reference[warp_ * 16 + lane_ / 4 + 8];
        ptx::fence_shared_async();
    }
    /// Takes over the other side's references.
    __device__ __forceinline__ void follow() {
        const float theirs[2] = {theirs_[0], theirs_[1]};
        const bool same = theirs[0] == reference_[0] && theirs[1] == reference_[1];
        if (__all_sync(~0U, same)) return;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            factor_[h] = theirs[h] == reference_[h] ? 1.0F : exp2_fast(reference_[h] - theirs[h]);
            reference_[h] = theirs[h];
            sum_[h] *= factor_[h];
        }
        moved_ = true;
        rescale();
    }

    /// Of the half of a buffer that this side multiplies, sixteen rows.
    [[nodiscard]] __device__ __forceinline__ std::uint64_t values(std::uint32_t buffer, int k) const {
        const std::uint32_t half = word_ + buffer * kBlockWords + side_ * (kHalfSlabs * kSlabWords);
        return wide_descriptor(half + S::kRows / 16, 128 * k);
    }
    __device__ __forceinline__ void add_own() {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            wide_product(out_, weight_[k], values(side_, k));
            ptx::wgmma_commit();
        }
    }
    template <int Side>
    __device__ __forceinline__ void add_other() {
        constexpr std::uint32_t weights = Side == 1 ? S::kFirstWeights : S::kSecondWeights;
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            wide_product(out_, ptx::wgmma_step(word_ + weights / 16, k), values(1 - Side, k));
            ptx::wgmma_commit();
        }
    }

    const Params& params_;
    PairedControl& control_;
    std::uint32_t base_, word_;
    int side_, warp_, lane_;
    float score_[32];
    std::uint32_t weight_[4][4];
    float factor_[2] = {1.0F, 1.0F};
    bool moved_ = false;
    std::uint64_t valid_;
    float theirs_[2];
};

}  // namespace tokamak::mla::cuda::paired_decode
