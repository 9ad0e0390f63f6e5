// SPDX-License-Identifier: Apache-2.0
// Two warpgroups that score the blocks of rows in turns; each has half of the output's dimensions for all blocks. Heads
// are the rows of all products, so that a warp knows everything about its 16 heads, and thread t of both warpgroups has
// the same two.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/wgmma_16bit.cuh"
#include "mla/cuda/paired_decode/shape.cuh"
#include "mla/cuda/paired_decode/wide_products.cuh"

namespace tokamak::mla::cuda::paired_decode {

/// Side 0 scores even blocks and has the left half of the output, side 1 odd blocks and the right half.
template <int Dim, int Side, bool Split>
class Turns {
    using S = PairedShape<Dim>;
    /// The second side starts its scores when the first one has issued those of so many slabs: the tensor cores would
    /// serve both alike, and then wait for two softmaxes at once.
    static constexpr int kAhead = S::kSlabs;

  public:
    __device__ __forceinline__ Turns(const Params& params, PairedControl& control, std::uint32_t base, int warp,
                                     int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {
#pragma unroll
        for (float& v : out_) v = 0.0F;
    }

    __device__ __forceinline__ void run(int pairs) {
        if (pairs == 0) {
            if constexpr (Split) ptx::cluster_arrive_relaxed();
            return;
        }
        score(0, false);
        for (int pair = 0; pair < pairs; ++pair) {
            if constexpr (Side == 0)
                left_turn(pair, pair + 1 < pairs);
            else
                right_turn(pair, pair + 1 < pairs);
        }
    }

    float out_[128];
    float sum_[2] = {0.0F, 0.0F};
    float reference_[2] = {kNoReference, kNoReference};
    float top_[2] = {-kInfinity, -kInfinity};

  private:
    /// The last ones leave the queries' place to what other splits send.
    __device__ __forceinline__ static void await_scores(bool more) {
        ptx::wgmma_wait<0>();
        if (Split && !more) ptx::cluster_arrive_relaxed();
    }
    /// Both warpgroups add block by block in the same order, so that references only move forward.
    __device__ __forceinline__ void left_turn(int pair, bool more) {
        await_scores(more);
        weigh(2 * pair);
        rescale();
        publish();
        add_own();
        ptx::wgmma_wait<0>();
        release(0, 0);
        follow(pair);
        add_other();
        if (more) {
            score(pair + 1, true);
        } else {
            ptx::wgmma_wait<0>();
        }
    }
    __device__ __forceinline__ void right_turn(int pair, bool more) {
        await_scores(more);
        follow(pair);
        add_other();
        weigh(2 * pair + 1);
        publish();
        ptx::wgmma_wait<0>();
        release(0, 1);
        rescale();
        add_own();
        ptx::wgmma_wait<0>();
        release(1, 0);
        if (more) score(pair + 1, false);
    }

    /// Starts the scores of this side's block of a pair, half by half as they land. `behind`: the other's values are
    /// under way; their half of the other buffer is let go when they are done.
    __device__ __forceinline__ void score(int pair, bool behind) {
        if constexpr (Side == 1) ptx::barrier_wait(&control_.ahead, pair & 1U);
#pragma unroll
        for (int position = 0; position < S::kSlabs; ++position) {
            const bool second = position == S::first_position(Side, 1);
            if (position == 0 || second) {  // a fence costs 100 cycles and more
                ptx::barrier_wait(&control_.full[Side][second ? 1 : 0], pair & 1U);
                ptx::fence_shared_async();
                ptx::wgmma_fence();
            }
            const int slab = S::slab_at(Side, position);
            const std::uint64_t queries = descriptor(S::kQueries + slab * (kHeads * 128));
            const std::uint64_t rows = descriptor(S::slab(Side, slab));
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<false, false>(score_, queries + 2 * k, rows + 2 * k, position + k > 0);
            ptx::wgmma_commit();
            if (position == 0 && behind) {
                ptx::wgmma_wait<1>();
                release(1, 1);
            }
            if (Side == 0 && position + 1 == kAhead && lane_ == 0) ptx::barrier_arrive(&control_.ahead);
        }
    }

    [[nodiscard]] __device__ __forceinline__ std::uint64_t descriptor(std::uint32_t offset) const {
        return ptx::wgmma_step(ptx::wgmma_tile_word(base_ + offset), 0);
    }
    /// The half of a buffer that this side multiplies.
    [[nodiscard]] __device__ __forceinline__ std::uint64_t values(int buffer) const {
        return wide_descriptor(base_ + S::slab(buffer, Side * kHalfSlabs), kSlabBytes);
    }
    __device__ __forceinline__ void release(int buffer, int half) const {
        if (lane_ == 0) ptx::barrier_arrive(&control_.empty[buffer][half]);
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
        const std::uint64_t valid = *reinterpret_cast<const volatile std::uint64_t*>(control_.valid[block % 4]);
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

    /// Leaves weights and references for the other side.
    __device__ __forceinline__ void publish() {
        const std::uint32_t tile = base_ + (Side == 0 ? S::kFirstWeights : S::kSecondWeights);
        const int row = warp_ * 16 + lane_ % 16;
        // The rotary slab, whose place they take, may still be scored by another warp.
        if constexpr (Side == 0 && S::kFirstWeights < S::kSecondWeights) ptx::named_barrier(kScoredBarrier, 128);
#pragma unroll
        for (int k = 0; k < 4; ++k) store_matrix(tile + swizzled(row, 2 * k + lane_ / 16), weight_[k]);
        if ((lane_ & 3) == 0) {
            control_.reference[Side][warp_ * 16 + lane_ / 4] = reference_[0];
            control_.reference[Side][warp_ * 16 + lane_ / 4 + 8] = reference_[1];
        }
        ptx::fence_shared_async();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.weighed[Side]);
    }
    /// Takes over the other side's references when its weights are there.
    __device__ __forceinline__ void follow(int pair) {
        ptx::barrier_wait(&control_.weighed[1 - Side], pair & 1U);
        const float theirs[2] = {control_.reference[1 - Side][warp_ * 16 + lane_ / 4],
                                 control_.reference[1 - Side][warp_ * 16 + lane_ / 4 + 8]};
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

    __device__ __forceinline__ void add_own() {
        ptx::wgmma_fence();
        const std::uint64_t rows = values(Side);
#pragma unroll
        for (int k = 0; k < 4; ++k) wide_product(out_, weight_[k], rows + 128 * k);
        ptx::wgmma_commit();
    }
    __device__ __forceinline__ void add_other() {
        ptx::wgmma_fence();
        const std::uint64_t rows = values(1 - Side);
        const std::uint64_t weights = descriptor(Side == 1 ? S::kFirstWeights : S::kSecondWeights);
#pragma unroll
        for (int k = 0; k < 4; ++k) wide_product(out_, weights + 2 * k, rows + 128 * k);
        ptx::wgmma_commit();
    }

    const Params& params_;
    PairedControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    float score_[32];
    std::uint32_t weight_[4][4];
    float factor_[2] = {1.0F, 1.0F};
    bool moved_ = false;
};

}  // namespace tokamak::mla::cuda::paired_decode
