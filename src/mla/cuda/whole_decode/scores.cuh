// SPDX-License-Identifier: Apache-2.0
// Scores, heads by rows, and softmax weights relative to one reference a head for both halves of the rows. A warp has
// sixteen heads and all rows of its half, so that a head's largest score is a matter of four lanes.
#pragma once

#include "cuda/ptx/wgmma_f16.cuh"
#include "mla/cuda/sparse_decode/two_heads.cuh"
#include "mla/cuda/whole_decode/shape.cuh"

namespace tokamak::mla::cuda::whole_decode {

/// A lane's scores: heads g and g + 8 of its warp (g = lane / 4), rows 8 j + 2 (lane % 4) and the next of tile j:
/// [j][2 head + row].
using WholeScores = float[kHalfRows / 8][4];

class WholeScorer {
    using L = WholeLayout;
    static constexpr int kTiles = kHalfRows / 8;

  public:
    /// `half`: of the rows; `warp`: of the warpgroup that has it.
    __device__ __forceinline__ WholeScorer(WholeControl& control, std::uint32_t base, int half, int warp, int lane)
        : control_(control),
          base_(base),
          half_(half),
          head_(warp * 16 + lane / 4),
          lane_(lane),
          notes_(&control.note[half * kHalfRows + 2 * (lane % 4)]) {}

    __device__ __forceinline__ void multiply(WholeScores& score) const {
        const std::uint32_t queries = ptx::wgmma_tile_word(base_);
        const std::uint32_t rows = base_ + L::kRowsAt + half_ * (kUnits / kHalves * L::kUnit);
        if (half_ == 0)
            ptx::named_barrier(kFirstHalfBarrier, kFirstHalfThreads);
        else
            ptx::named_barrier(kSecondHalfBarrier, kSecondHalfThreads);
        ptx::fence_shared_async();
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < kSlabs; ++s)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_f16(score, ptx::wgmma_step(queries + s * (L::kQuerySlab / 16), k),
                               ptx::wgmma_rows(rows + s * L::kRowSlab + k * 32, L::kUnit), s + k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
    }

    /// By both warpgroups. Leaves weights, and of each head the sum of its half and the reference. A half's weights are
    /// made as soon as it is scored, relative to its own reference; these are integers, so that what brings weights to
    /// the reference of both is a power of two.
    __device__ __forceinline__ void weigh(WholeScores& score) const {
        constexpr int kHalfUnits = kUnits / kHalves;
        int special = lane_ < kHalfUnits ? control_.special[half_ * kHalfUnits + lane_] : 0;
        const TwoHeads factor = {control_.head_factor[head_], control_.head_factor[head_ + 8]};
        special |= factor.a > 0.0F && factor.b > 0.0F ? 0 : kOddPower;
        special = __reduce_or_sync(~0U, special);
        Words words;
        if ((special & kOddPower) == 0)
            weigh_plain(score, {factor.a * power_of(kPlainExponent), factor.b * power_of(kPlainExponent)}, special,
                        words);
        else
            weigh_any(score, factor, special, words);
        ptx::named_barrier(kTopsBarrier, kScoreThreads);
        const std::uint32_t a = to_both(head_);
        const std::uint32_t b = to_both(head_ + 8);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            words[j][0] = times(words[j][0], a);
            words[j][1] = times(words[j][1], b);
        }
        store(words);
        ptx::fence_shared_async();
    }

  private:
    using Words = std::uint32_t[kTiles][2];

    /// References are so much above the largest score that sums of values, below 2^15 times weights of 144 rows, stay
    /// in the range of f16.
    static constexpr float kAbove = 8.0F;

    /// Of rows that have one power.
    __device__ __forceinline__ void weigh_plain(WholeScores& score, const TwoHeads& factor, int special,
                                                Words& words) const {
        constexpr float kShift = static_cast<float>(kPlainExponent - kUnitExponent);
        if (special != 0) mask(score);
        const TwoHeads top = largest(score);
        const TwoHeads above = refer({fmaf(top.a, factor.a, kShift), fmaf(top.b, factor.b, kShift)});
        const TwoHeads less = {kShift - above.a, kShift - above.b};
        TwoHeads sum = {0.0F, 0.0F};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const float a = exp2_fast(fmaf(score[j][0], factor.a, less.a));
            const float b = exp2_fast(fmaf(score[j][1], factor.a, less.a));
            const float c = exp2_fast(fmaf(score[j][2], factor.b, less.b));
            const float d = exp2_fast(fmaf(score[j][3], factor.b, less.b));
            sum.a += a + b;
            sum.b += c + d;
            words[j][0] = pack_f16(a, b);
            words[j][1] = pack_f16(c, d);
        }
        constexpr int inverse_power = 2 * kUnitExponent - kPlainExponent;
        tell({sum.a * power_of(inverse_power), sum.b * power_of(inverse_power)});
    }
    __device__ __forceinline__ void weigh_any(WholeScores& score, const TwoHeads& factor, int special,
                                              Words& words) const {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const float4 note = two_notes(j);
            score[j][0] = fmaf(score[j][0] * note.y, factor.a, note.x);
            score[j][1] = fmaf(score[j][1] * note.w, factor.a, note.z);
            score[j][2] = fmaf(score[j][2] * note.y, factor.b, note.x);
            score[j][3] = fmaf(score[j][3] * note.w, factor.b, note.z);
        }
        if ((special & kMasked) != 0) mask(score);
        const TwoHeads above = refer(largest(score));
        TwoHeads sum = {0.0F, 0.0F};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const float4 note = two_notes(j);
            const float first = inverse(note.y);
            const float second = inverse(note.w);
            const float a = exp2_fast(score[j][0] - above.a);
            const float b = exp2_fast(score[j][1] - above.a);
            const float c = exp2_fast(score[j][2] - above.b);
            const float d = exp2_fast(score[j][3] - above.b);
            sum.a = fmaf(a, first, fmaf(b, second, sum.a));
            sum.b = fmaf(c, first, fmaf(d, second, sum.b));
            words[j][0] = pack_f16(a, b);
            words[j][1] = pack_f16(c, d);
        }
        tell(sum);
    }

    /// The largest scores, over the lanes that have a head's.
    [[nodiscard]] __device__ __forceinline__ static TwoHeads largest(const WholeScores& score) {
        TwoHeads top = {-kInfinity, -kInfinity};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            top.a = max_or_nan(top.a, max_or_nan(score[j][0], score[j][1]));
            top.b = max_or_nan(top.b, max_or_nan(score[j][2], score[j][3]));
        }
        return largest_of_quad(top);
    }
    /// Leaves the references of the half, -infinity where no row counts; what is subtracted from scores is 0 then.
    [[nodiscard]] __device__ __forceinline__ TwoHeads refer(const TwoHeads& top) const {
        const TwoHeads above = {ceilf(top.a) + kAbove, ceilf(top.b) + kAbove};
        if (lane_ % 4 == 0) {
            control_.above[half_][head_] = above.a;
            control_.above[half_][head_ + 8] = above.b;
        }
        return {above.a == -kInfinity ? 0.0F : above.a, above.b == -kInfinity ? 0.0F : above.b};
    }
    __device__ __forceinline__ void tell(TwoHeads sum) const {
        sum = sum_of_quad(sum);
        if (lane_ % 4 != 0) return;
        control_.sum[half_][head_] = sum.a;
        control_.sum[half_][head_ + 8] = sum.b;
    }
    /// What brings weights of this half to the reference of both, two f16 numbers.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t to_both(int head) const {
        const float factor = control_.half_factor(half_, head);
        return pack_f16(factor, factor);
    }
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t times(std::uint32_t two, std::uint32_t factors) {
        return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), *reinterpret_cast<const __half2*>(&factors)));
    }

    [[nodiscard]] __device__ __forceinline__ float4 two_notes(int j) const {
        return *reinterpret_cast<const float4*>(notes_ + 8 * j);
    }
    [[nodiscard]] __device__ __forceinline__ static float inverse(float power) {
        return __int_as_float((2 * kUnitExponent << 23) - __float_as_int(power));
    }
    /// Of a head with an element that is not finite, rows that do not count have NaN until here.
    __device__ __forceinline__ void mask(WholeScores& score) const {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const float4 note = two_notes(j);
            if (note.x == -kInfinity) score[j][0] = score[j][2] = -kInfinity;
            if (note.z == -kInfinity) score[j][1] = score[j][3] = -kInfinity;
        }
    }
    __device__ __forceinline__ void store(const std::uint32_t (&words)[kTiles][2]) const {
        const int row = head_ / 16 * 16 + lane_ / 8 % 2 * 8 + lane_ % 8;
        const auto at = [&](int tile) {
            const int chunk = half_ * kTiles + tile;
            return base_ + L::kWeights + chunk / 8 * L::kQuerySlab + swizzled(row, chunk % 8);
        };
#pragma unroll
        for (int j = 0; j + 1 < kTiles; j += 2) {
            const std::uint32_t four[4] = {words[j][0], words[j][1], words[j + 1][0], words[j + 1][1]};
            ptx::store_matrix_x4(at(j + lane_ / 16), four);
        }
        const std::uint32_t last = at(kTiles - 1);
        asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(last), "r"(words[kTiles - 1][0]),
                     "r"(words[kTiles - 1][1])
                     : "memory");
    }

    WholeControl& control_;
    std::uint32_t base_;
    int half_, head_, lane_;
    const RowNote* notes_;
};

}  // namespace tokamak::mla::cuda::whole_decode
