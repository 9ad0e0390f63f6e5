// SPDX-License-Identifier: Apache-2.0
// Scores of a block of rows, heads by rows: a warp has sixteen heads and all rows of its warpgroup's block, so that a
// head's largest score is a matter of four lanes. Softmax weights relative to one reference for both warpgroups.
#pragma once

#include "cuda/ptx/wgmma_16bit.cuh"
#include "cuda/ptx/wgmma_8bit.cuh"
#include "mla/cuda/wide_decode/few_exact.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// A lane's scores: heads g and g + 8 of its warp (g = lane / 4), rows 8 j + 2 (lane % 4) and the next of tile j:
/// [j][2 head + row].
using FewScores = float[kRowBlock / 8][4];

/// All products of one scale are summed by themselves, low numbers of the queries first: sums lose what is far below
/// their largest addend. `ahead`: of the two warpgroups, the one that starts first; the other one's products then fill
/// the time that this one's sums take.
__device__ __forceinline__ void multiply_few(FewControl& control, std::uint32_t base, const Stage& stage, bool ahead,
                                             int lane, FewScores& score) {
    const std::uint32_t rows = ptx::wgmma_tile_word(base + FewLayout::kRows + stage.index * FewLayout::kStageBytes);
    const std::uint32_t queries = ptx::wgmma_tile_word(base);
    constexpr int kSlabWords = kSlabBytes / 16;
    ptx::barrier_wait(&control.full[stage.index], stage.phase);
    ptx::fence_shared_async();
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
        ptx::wgmma_16bit<false, false>(reinterpret_cast<float(&)[32]>(score),
                                       ptx::wgmma_step(queries + kRotaryQueries * kSlabWords, k),
                                       ptx::wgmma_step(rows + kRotarySlab * kSlabWords, k), k > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    if (ahead) ptx::named_barrier_arrive(kFewTurnBarrier, kFewMath);
    std::uint32_t scales = scales_of_rows(base, stage.index, lane);
#pragma unroll 1
    for (int g = 0; g < kCodeSlabs; ++g) {
        float partial[8][4];
        ptx::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const std::uint32_t tile = queries + (part == 0 ? low_queries(g) : high_queries(g)) * kSlabWords;
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_8bit<ptx::E4m3E4m3>(partial, ptx::wgmma_step(tile, k),
                                               ptx::wgmma_step(rows + g * kSlabWords, k), part + k > 0);
        }
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 scale = row_scales(scales, j);
            score[j][0] = fmaf(partial[j][0], scale.x, score[j][0]);
            score[j][1] = fmaf(partial[j][1], scale.y, score[j][1]);
            score[j][2] = fmaf(partial[j][2], scale.x, score[j][2]);
            score[j][3] = fmaf(partial[j][3], scale.y, score[j][3]);
        }
        scales += sizeof(float);
    }
}

/// A lane's two heads.
struct TwoHeads {
    float a, b;
};

class FewScorer {
  public:
    /// `group`: of the two warpgroups; `warp`: of it.
    __device__ __forceinline__ FewScorer(FewControl& control, std::uint32_t base, int group, int warp)
        : control_(control), base_(base), group_(group), warp_(warp) {}

    /// Scores this warpgroup's block of a pass, if there is one, and leaves its weights (else 0); both warpgroups call
    /// it. Behind the `last` one a head's sums are
    /// left too. Returns whether older sums must be corrected.
    __device__ __forceinline__ bool run(const Stage& stage, bool exists, bool last) {
        const int lane = lane_anew();
        const int head = warp_ * 16 + lane / 4;
        FewScores score;
        TwoHeads top = {-kInfinity, -kInfinity};
        const RowNote* const notes = &control_.note[stage.index][2 * (lane & 3)];
        if (group_ == 1) ptx::named_barrier(kFewTurnBarrier, kFewMath);
        if (exists) {
            ptx::barrier_wait(&control_.counted[stage.index], stage.phase);
            const auto& live = control_.live[stage.index];
            if (__any_sync(~0U, live[0] + live[1] + live[2] + live[3] <= kExactRows)) {
                if (group_ == 0) ptx::named_barrier_arrive(kFewTurnBarrier, kFewMath);
                ptx::barrier_wait(&control_.full[stage.index], stage.phase);
                FewExactScores(base_, stage.index, head, lane).compute(score);
            } else {
                multiply_few(control_, base_, stage, group_ == 0, lane, score);
            }
            ptx::barrier_wait(&control_.settled[stage.index], stage.phase);
            const TwoHeads factor = {control_.head_factor[head], control_.head_factor[head + 8]};
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float4 note = *reinterpret_cast<const float4*>(notes + 8 * j);
                score[j][0] = fmaf(score[j][0], factor.a, note.x);
                score[j][1] = fmaf(score[j][1], factor.a, note.z);
                score[j][2] = fmaf(score[j][2], factor.b, note.x);
                score[j][3] = fmaf(score[j][3], factor.b, note.z);
                top.a = max_or_nan(top.a, max_or_nan(score[j][0], score[j][1]));
                top.b = max_or_nan(top.b, max_or_nan(score[j][2], score[j][3]));
            }
#pragma unroll
            for (int step = 1; step < 4; step *= 2) {
                top.a = max_or_nan(top.a, __shfl_xor_sync(~0U, top.a, step));
                top.b = max_or_nan(top.b, __shfl_xor_sync(~0U, top.b, step));
            }
        }
        if (lane % 4 == 0) {
            control_.top[group_][head] = top.a;
            control_.top[group_][head + 8] = top.b;
        }
        ptx::named_barrier(kFewTopsBarrier, kFewMath);
        const TwoHeads correction = {move(reference_.a, head), move(reference_.b, head + 8)};
        const TwoHeads above = {reference_.a == kNoReference ? 0.0F : reference_.a,
                                reference_.b == kNoReference ? 0.0F : reference_.b};
        sum_.a *= correction.a;
        sum_.b *= correction.b;
        if (group_ == 0 && lane % 4 == 0) {
            control_.correction[head] = correction.a;
            control_.correction[head + 8] = correction.b;
        }
        const std::uint32_t tile = base_ + FewLayout::kWeights + group_ * (kHeads * 128);
        const int matrix = lane / 8;
        const int row = warp_ * 16 + matrix % 2 * 8 + lane % 8;
        std::uint32_t words[kRowBlock / 16][4] = {};
        if (exists) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float4 note = *reinterpret_cast<const float4*>(notes + 8 * j);
                const float a = exp2_fast(score[j][0] - above.a);
                const float b = exp2_fast(score[j][1] - above.a);
                const float c = exp2_fast(score[j][2] - above.b);
                const float d = exp2_fast(score[j][3] - above.b);
                sum_.a = fmaf(a, note.y, fmaf(b, note.w, sum_.a));
                sum_.b = fmaf(c, note.y, fmaf(d, note.w, sum_.b));
                words[j / 2][j % 2 * 2] = pack_f16(a, b);
                words[j / 2][j % 2 * 2 + 1] = pack_f16(c, d);
            }
        }
#pragma unroll
        for (int i = 0; i < kRowBlock / 16; ++i)
            ptx::store_matrix_x4(tile + swizzled(row, 2 * i + matrix / 2), words[i]);
        if (last) finish(lane, head);
        ptx::fence_shared_async();
        return ptx::named_barrier_any(kFewWeightsBarrier, kFewMath, correction.a != 1.0F || correction.b != 1.0F);
    }

  private:
    /// Leaves a head's sums; a barrier must follow.
    __device__ __forceinline__ void finish(int lane, int head) {
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            sum_.a += __shfl_xor_sync(~0U, sum_.a, step);
            sum_.b += __shfl_xor_sync(~0U, sum_.b, step);
        }
        if (lane % 4 != 0) return;
        control_.sum[group_][head] = sum_.a;
        control_.sum[group_][head + 8] = sum_.b;
        if (group_ != 0) return;
        control_.reference[head] = reference_.a;
        control_.reference[head + 8] = reference_.b;
    }

    /// Moves a head's reference if it must, the same in both warpgroups; returns what corrects older sums.
    [[nodiscard]] __device__ __forceinline__ float move(float& reference, int head) const {
        const float top = max_or_nan(control_.top[0][head], control_.top[1][head]);
        const bool none = reference == kNoReference;
        const float before = reference;
        if (none ? !(top == -kInfinity) : !(top - reference <= static_cast<float>(kPatienceBits))) {
            reference = top;
            if (!none) return exp2_fast(before - top);
        }
        return 1.0F;
    }

    FewControl& control_;
    std::uint32_t base_;
    int group_, warp_;
    TwoHeads reference_ = {kNoReference, kNoReference};
    TwoHeads sum_ = {0.0F, 0.0F};
};

}  // namespace tokamak::mla::cuda::wide_decode
