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

    /// By both warpgroups. Leaves weights, and of each head the sum of its half and the reference.
    __device__ __forceinline__ void weigh(WholeScores& score) const {
        const TwoHeads factor = {control_.head_factor[head_], control_.head_factor[head_ + 8]};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const float4 note = two_notes(j);
            score[j][0] = fmaf(score[j][0] * note.y, factor.a, note.x);
            score[j][1] = fmaf(score[j][1] * note.w, factor.a, note.z);
            score[j][2] = fmaf(score[j][2] * note.y, factor.b, note.x);
            score[j][3] = fmaf(score[j][3] * note.w, factor.b, note.z);
        }
        constexpr int kHalfUnits = kUnits / kHalves;
        if (__any_sync(~0U, lane_ < kHalfUnits && control_.masked[half_ * kHalfUnits + lane_] != 0)) mask(score);
        TwoHeads top = {-kInfinity, -kInfinity};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            top.a = max_or_nan(top.a, max_or_nan(score[j][0], score[j][1]));
            top.b = max_or_nan(top.b, max_or_nan(score[j][2], score[j][3]));
        }
        top = largest_of_quad(top);
        if (lane_ % 4 == 0) {
            control_.top[half_][head_] = top.a;
            control_.top[half_][head_ + 8] = top.b;
        }
        ptx::named_barrier(kTopsBarrier, kScoreThreads);
        const TwoHeads above = {of_both(head_), of_both(head_ + 8)};
        TwoHeads sum = {0.0F, 0.0F};
        std::uint32_t words[kTiles][2];
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
        store(words);
        finish(sum, above);
        ptx::fence_shared_async();
    }

  private:
    /// References are so much above the largest score that sums of values, below 2^15 times weights of 144 rows, stay
    /// in the range of f16.
    static constexpr float kAbove = 8.0F;

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
    /// A head's reference, 0 where there is none.
    [[nodiscard]] __device__ __forceinline__ float of_both(int head) const {
        const float top = max_or_nan(control_.top[0][head], control_.top[1][head]);
        return top == -kInfinity ? 0.0F : top + kAbove;
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

    __device__ __forceinline__ void finish(TwoHeads sum, const TwoHeads& above) const {
        sum = sum_of_quad(sum);
        if (lane_ % 4 != 0) return;
        control_.sum[half_][head_] = sum.a;
        control_.sum[half_][head_ + 8] = sum.b;
        if (half_ != 0) return;
        const auto known = [&](int head, float reference) {
            const bool none = control_.top[0][head] == -kInfinity && control_.top[1][head] == -kInfinity;
            return none ? kNoReference : reference;
        };
        control_.reference[head_] = known(head_, above.a);
        control_.reference[head_ + 8] = known(head_ + 8, above.b);
    }

    WholeControl& control_;
    std::uint32_t base_;
    int half_, head_, lane_;
    const RowNote* notes_;
};

}  // namespace tokamak::mla::cuda::whole_decode
