// SPDX-License-Identifier: Apache-2.0
// Two warpgroups that score the blocks of rows in turns; each has half of the output's dimensions for all blocks. Heads
// are the rows of all products, so that a warp knows everything about its 16 heads, and thread t of both warpgroups has
// the same two. Both run the same instructions: as two copies these did not stay where a multiprocessor keeps them.
#pragma once

#include "cuda/ptx/peer.cuh"
#include "cuda/ptx/wgmma_16bit.cuh"
#include "mla/cuda/paired_codes/wide_products.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// Side 0 scores even blocks and has the right half of the output, side 1 odd blocks and the left half. `Shared`: half
/// of the rows come from the other block of the cluster, and rows are let go for both.
template <bool Split, bool Shared>
class Turns {
    using Tile = Tiles<Shared>;
    static constexpr std::uint32_t kBlockWords = Layout::kBlockBytes / 16;  ///< as descriptors count

  public:
    /// `warp`: of its side.
    __device__ __forceinline__ Turns(const Params& params, CodesControl& control, std::uint32_t base, int side,
                                     int warp, int lane)
        : params_(params),
          control_(control),
          base_(base),
          word_(ptx::wgmma_tile_word(base)),
          side_(side),
          warp_(warp),
          lane_(lane),
          to_other_(Shared && lane == 1 ? other_block(base) : 0) {
#pragma unroll
        for (float& v : out_) v = 0.0F;
    }

    /// Both sides add block by block in the same order, so that references only move forward. The last block may have
    /// none beside it: the second side then only adds its half of that one.
    __device__ __forceinline__ void run(int blocks) {
        const int pairs = (blocks + 1) / 2;
        if (Split && pairs == 0) ptx::cluster_arrive_relaxed();
#pragma unroll 1
        for (int pair = 0; pair < pairs; ++pair) {
            const bool alone = 2 * pair + 1 == blocks;
            score(pair, alone && side_ == 1);
            if (side_ == 1) await_other(pair);
            ptx::wgmma_wait<0>();
            // The last ones leave the queries' place to what the other split sends.
            if (Split && pair + 1 == pairs) ptx::cluster_arrive_relaxed();
            if (side_ == 1) {
                follow();
                add_other();
            }
            if (alone && side_ == 1) {
                ptx::wgmma_wait<0>();
                break;
            }
            weigh(2 * pair + side_);
            release_as_done(0, kLeft, side_ == 1);
            publish();
            rescale();
            add_own();
            release_as_done(side_, side_ == 0 ? kRight : kLeft, true);
            if (alone) break;
            if (side_ == 0) {
                await_other(pair);
                follow();
                add_other();
                release_as_done(1, kRight, true);  // across the loop's end ptxas would serialise all products
            }
        }
    }

    float out_[128];
    float sum_[2] = {0.0F, 0.0F};
    float reference_[2] = {kNoReference, kNoReference};
    float top_[2] = {-kInfinity, -kInfinity};

  private:
    /// Starts the scores of this side's block of a pair, half by half as they are announced. `nothing`: there is no
    /// such block; what lies in the buffer is multiplied, and nobody looks at it.
    __device__ __forceinline__ void score(int pair, bool nothing) {
        if (side_ == 1) ptx::barrier_wait(&control_.ahead, pair & 1U);
        const std::uint32_t rows = Layout::kRows / 16 + side_ * kBlockWords;
#pragma unroll
        for (int position = 0; position < kSlabs; ++position) {
            if (position % kHalfSlabs == 0) {  // a fence costs 100 cycles and more
                if (!nothing) ptx::barrier_wait(&control_.full[side_][position / kHalfSlabs], pair & 1U);
                if (!Shared) ptx::fence_shared_async();  // shared rows were fenced to be sent
                ptx::wgmma_fence();
            }
            const std::uint32_t slab = word_ + Tile::slab((position + kHalfSlabs) % kSlabs) / 16;
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<true, false>(score_, tile_step<Shared>(slab, k), tile_step<Shared>(slab + rows, k),
                                              position + k > 0);
            ptx::wgmma_commit();
        }
        // The second side starts when the first one has issued all: the tensor cores would serve both alike, and then
        // wait for two softmaxes at once.
        if (side_ == 0 && lane_ == 0) ptx::barrier_arrive(&control_.ahead);
    }

    /// Lets rows of a half go, sixteen at a time, as the four products that were started last end.
    __device__ __forceinline__ void release_as_done(int buffer, Half half, bool read) const {
        const bool lets_go = read && (Shared ? lane_ < 2 : lane_ == 0);
        std::uint64_t* const empty = control_.empty[buffer][half];
        ptx::wgmma_wait<3>();
        if (lets_go) let_go(&empty[0]);
        ptx::wgmma_wait<2>();
        if (lets_go) let_go(&empty[1]);
        ptx::wgmma_wait<1>();
        if (lets_go) let_go(&empty[2]);
        ptx::wgmma_wait<0>();
        if (lets_go) let_go(&empty[3]);
    }
    __device__ __forceinline__ void let_go(std::uint64_t* empty) const {
        if constexpr (Shared)
            ptx::barrier_arrive_in(ptx::shared_address(empty) + to_other_);
        else
            ptx::barrier_arrive(empty);
    }

    /// Scores to weights relative to this side's references, which move if they must. A row's weight carries the power
    /// that its values were divided by: so it is what references compare, and sums of weights take it out again.
    __device__ __forceinline__ void weigh(int block) {
        const float factor[2] = {control_.head_factor[own_head()], control_.head_factor[own_head() + 8]};
        if constexpr (Shared) {
            moved_ = false;
            std::uint32_t power;
            if (have_one_power(block, power) && params_.scale_log2 > 0.0F)
                weigh_alike(static_cast<int>(power) << kPowerBits, factor);
            else
                weigh_each(block, factor);
            return;
        }
        const auto* const noted = reinterpret_cast<const volatile std::uint32_t*>(control_.common_power[block % 4]);
        const std::uint32_t common = noted[0];
        moved_ = false;
        if (common == noted[1] && common == __byte_perm(common, 0, 0) && common != ~0U && params_.scale_log2 > 0.0F)
            weigh_alike(static_cast<int>(common & 0xFFU) << kPowerBits, factor);
        else
            weigh_each(block, factor);
    }
    /// Whether all rows of a block have one power.
    [[nodiscard]] __device__ __forceinline__ bool have_one_power(int block, std::uint32_t& power) const {
        const std::uint32_t at = ptx::shared_address(control_.shared_power[block % 4]);
        const uint4 a = load_shared_16(at);
        const uint4 b = load_shared_16(at + 16);
        power = a.x;
        const std::uint32_t differ =
            (a.x ^ a.y) | (a.x ^ a.z) | (a.x ^ a.w) | (a.x ^ b.x) | (a.x ^ b.y) | (a.x ^ b.z) | (a.x ^ b.w);
        return differ == 0 && power != kMixed;
    }
    /// Of rows with one power, none of them masked.
    __device__ __forceinline__ void weigh_alike(int power, const float (&head_factor)[2]) {
        const float shift = static_cast<float>(power - kUnitExponent);
        const float factor[2] = {head_factor[0] * power_of(power), head_factor[1] * power_of(power)};
        float top[2] = {score_[0], score_[2]};
#pragma unroll
        for (int i = 1; i < 16; ++i) {
            top[0] = max_or_nan(top[0], score_[i / 2 * 4 + i % 2]);
            top[1] = max_or_nan(top[1], score_[i / 2 * 4 + 2 + i % 2]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) top[h] *= factor[h];
        if (params_.max_logits != nullptr) {
#pragma unroll
            for (int h = 0; h < 2; ++h) top_[h] = max_or_nan(top_[h], top[h]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) top[h] += shift;
        follow_top(top);
        const float zero[2] = {shift - reference_[0], shift - reference_[1]};
        float sum[2] = {0.0F, 0.0F};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float a = exp2_fast(fmaf(score_[2 * i], factor[i % 2], zero[i % 2]));
            const float b = exp2_fast(fmaf(score_[2 * i + 1], factor[i % 2], zero[i % 2]));
            sum[i % 2] += a + b;
            weight_[i / 4][i % 4] = pack_f16(a, b);
        }
        const float inverse = power_of(2 * kUnitExponent - power);
        sum_[0] = fmaf(sum[0], inverse, sum_[0]);
        sum_[1] = fmaf(sum[1], inverse, sum_[1]);
    }
    /// Of rows that are masked or have powers of their own.
    __device__ __forceinline__ void weigh_each(int block, const float (&factor)[2]) {
        const auto logit = [&](int at, int power) {
            return power == kMaskedRow ? -kInfinity : score_[at] * factor[at / 2 % 2] * power_of(power);
        };
        float top[2] = {-kInfinity, -kInfinity};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int2 power = powers(block, i / 2);
            const float a = logit(2 * i, power.x);
            const float b = logit(2 * i + 1, power.y);
            if (params_.max_logits != nullptr) top_[i % 2] = max_or_nan(top_[i % 2], max_or_nan(a, b));
            top[i % 2] = max_or_nan(top[i % 2], max_or_nan(a + shift_of(power.x), b + shift_of(power.y)));
        }
        follow_top(top);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int2 power = powers(block, i / 2);
            const float a = exp2_fast(logit(2 * i, power.x) + shift_of(power.x) - reference_[i % 2]);
            const float b = exp2_fast(logit(2 * i + 1, power.y) + shift_of(power.y) - reference_[i % 2]);
            sum_[i % 2] = fmaf(a, power_of(2 * kUnitExponent - power.x), sum_[i % 2]);
            sum_[i % 2] = fmaf(b, power_of(2 * kUnitExponent - power.y), sum_[i % 2]);
            weight_[i / 4][i % 4] = pack_f16(a, b);
        }
    }
    __device__ __forceinline__ static float shift_of(int power) { return static_cast<float>(power - kUnitExponent); }
    __device__ __forceinline__ void follow_top(const float (&top)[2]) {
        const bool exceeds = !(top[0] <= reference_[0] + kPatienceBits) || !(top[1] <= reference_[1] + kPatienceBits);
        if (__any_sync(~0U, exceeds)) move(top);
    }

    [[nodiscard]] __device__ __forceinline__ int own_head() const { return warp_ * 16 + lane_ / 4; }
    /// Of this thread's two rows among eight, a masked one's that of a row of zeros.
    [[nodiscard]] __device__ __forceinline__ int2 powers(int block, int eight) const {
        const auto* const two =
            reinterpret_cast<const volatile std::uint16_t*>(&control_.power[block % 4][8 * eight + 2 * (lane_ & 3)]);
        const unsigned both = *two;
        return {static_cast<int>(both & 0xFFU) << kPowerBits, static_cast<int>(both >> 8) << kPowerBits};
    }
    /// References to the largest exponents of their heads, where these exceed them by too much.
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

    /// Leaves weights and references for the other side, in place of what that side left, which this one has read. It
    /// is the reader that fences them: a fence waits for products that are under way, of which there are none where it
    /// stands.
    __device__ __forceinline__ void publish() {
        const std::uint32_t tile = base_ + Layout::kWeights;
        const int row = warp_ * 16 + lane_ % 16;
        ptx::named_barrier(kSideBarrier + side_, 128);
#pragma unroll
        for (int k = 0; k < 4; ++k) ptx::store_matrix_x4(tile + swizzled(row, 2 * k + lane_ / 16), weight_[k]);
        if ((lane_ & 3) == 0) {
            control_.reference[side_][own_head()] = reference_[0];
            control_.reference[side_][own_head() + 8] = reference_[1];
        }
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.weighed[side_]);
    }
    /// Until the other side's weights are there. The second side, whose scores are under way, waits for these anyway.
    __device__ __forceinline__ void await_other(int pair) const {
        ptx::barrier_wait(&control_.weighed[1 - side_], pair & 1U);
        ptx::fence_shared_async();
    }
    /// Takes over the other side's references.
    __device__ __forceinline__ void follow() {
        const float theirs[2] = {control_.reference[1 - side_][own_head()],
                                 control_.reference[1 - side_][own_head() + 8]};
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

    /// Offset of the half of a buffer that this side multiplies, sixteen rows.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t values(std::uint32_t buffer, int k) const {
        return Layout::kRows / 16 + buffer * kBlockWords + (1 - side_) * (Tile::kHalf / 16) + 2 * Tile::kEight / 16 * k;
    }
    __device__ __forceinline__ void add_own() {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            wide_product<Shared>(out_, weight_[k], word_, values(side_, k));
            ptx::wgmma_commit();
        }
    }
    __device__ __forceinline__ void add_other() {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            wide_product<Shared>(out_, ptx::wgmma_step(word_ + Layout::kWeights / 16, k), word_, values(1 - side_, k));
            ptx::wgmma_commit();
        }
    }

    const Params& params_;
    CodesControl& control_;
    std::uint32_t base_, word_;
    int side_, warp_, lane_;
    std::uint32_t to_other_;  ///< from an address here to the same one in the block that this lane lets rows go for
    float score_[32];
    std::uint32_t weight_[4][4];
    float factor_[2] = {1.0F, 1.0F};
    bool moved_ = false;
};

}  // namespace tokamak::mla::cuda::paired_codes
