// SPDX-License-Identifier: Apache-2.0
// Scores of a share's rows, heads by rows: a warp has sixteen heads and all rows of its warpgroup's blocks, so that a
// head's largest score is a matter of four lanes. Softmax weights of all rows at once, behind the last scores.
#pragma once

#include "cuda/ptx/wgmma_16bit.cuh"
#include "cuda/ptx/wgmma_8bit.cuh"
#include "mla/cuda/sparse_decode/two_heads.cuh"
#include "mla/cuda/wide_decode/few_exact.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// A lane's scores: heads g and g + 8 of its warp (g = lane / 4), rows 8 j + 2 (lane % 4) and the next of tile j:
/// [j][2 head + row].
using FewScores = float[kRowBlock / 8][4];

/// What a block's scores wait for.
__device__ __forceinline__ void await_rotary(FewControl& control, int block) {
    if (block >= kRotaryPlaces) ptx::barrier_wait(&control.rotary_full[block % kRotaryPlaces], 0);
}
/// Its place is free for a later block's.
__device__ __forceinline__ void release_rotary(FewControl& control, int block) {
    __syncwarp();
    if (block < kRotaryPlaces && lane_anew() == 0) ptx::barrier_arrive(&control.rotary_read[block]);
}

/// Products of a warpgroup, two groups of them under way. All products of one scale are summed by themselves, low
/// numbers of the queries first: sums lose what is far below their largest addend.
class FewProducts {
    static constexpr int kSlabWords = kSlabBytes / 16;

  public:
    __device__ __forceinline__ FewProducts(std::uint32_t base, int lane)
        : base_(base), lane_(lane), queries_(ptx::wgmma_tile_word(base)) {}

    /// Codes of group g of dimensions.
    __device__ __forceinline__ void start(int block, int g, float (&sums)[8][4]) const {
        const std::uint32_t rows = ptx::wgmma_tile_word(base_ + FewLayout::kRows + block * FewLayout::kBlockBytes);
        ptx::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const std::uint32_t tile = queries_ + (part == 0 ? low_queries(g) : high_queries(g)) * kSlabWords;
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_8bit<ptx::E4m3E4m3>(sums, ptx::wgmma_step(tile, k),
                                               ptx::wgmma_step(rows + g * kSlabWords, k), part + k > 0);
        }
        ptx::wgmma_commit();
    }
    __device__ __forceinline__ void start_rotary(int block, float (&sums)[8][4]) const {
        const std::uint32_t rows =
            ptx::wgmma_tile_word(base_ + FewLayout::kRotary + block % kRotaryPlaces * kSlabBytes);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma_16bit<false, false>(reinterpret_cast<float(&)[32]>(sums),
                                           ptx::wgmma_step(queries_ + kRotaryQueries * kSlabWords, k),
                                           ptx::wgmma_step(rows, k), k > 0);
        ptx::wgmma_commit();
    }
    /// `first`: of a block, what `score` held does not count.
    __device__ __forceinline__ void add_scaled(int block, int g, bool first, const float (&sums)[8][4],
                                               FewScores& score) const {
        const std::uint32_t scales = scales_of_rows(base_, block, lane_) + g * static_cast<int>(sizeof(float));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 scale = row_scales(scales, j);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float of = e % 2 == 0 ? scale.x : scale.y;
                score[j][e] = first ? sums[j][e] * of : fmaf(sums[j][e], of, score[j][e]);
            }
        }
    }

  private:
    std::uint32_t base_;
    int lane_;
    std::uint32_t queries_;
};

class FewScorer {
  public:
    /// `group`: of the two warpgroups; `warp`: of it.
    __device__ __forceinline__ FewScorer(FewControl& control, std::uint32_t base, int group, int warp)
        : control_(control), base_(base), group_(group), warp_(warp) {}

    /// Scores every other block of a share of `Pairs` pairs and leaves its weights, relative to the largest score of a
    /// head; both warpgroups call it.
    template <int Pairs>
    __device__ __forceinline__ void run() {
        const int lane = lane_anew();
        const int head = warp_ * 16 + lane / 4;
        FewScores score[Pairs];
        TwoHeads top = {-kInfinity, -kInfinity};
        ptx::barrier_wait(&control_.counted[group_], 0);
        const auto& live = control_.live[group_];
        const bool exact = __any_sync(~0U, live[0] + live[1] + live[2] + live[3] <= kExactRows);
        ptx::barrier_wait(&control_.full[group_], 0);
        if (exact) {
#pragma unroll
            for (int pair = 0; pair < Pairs; ++pair) {
                const int block = 2 * pair + group_;
                ptx::barrier_wait(&control_.full[block], 0);
                await_rotary(control_, block);
                FewExactScores(base_, block, head, lane).compute(score[pair]);
                release_rotary(control_, block);
                relate(block, head, lane, score[pair], top);
            }
        } else {
            multiply<Pairs>(head, lane, score, top);
        }
        top = largest_of_quad(top);
        if (lane % 4 == 0) {
            control_.top[group_][head] = top.a;
            control_.top[group_][head + 8] = top.b;
        }
        ptx::named_barrier(kFewTopsBarrier, kFewMath);
        top = {max_or_nan(control_.top[0][head], control_.top[1][head]),
               max_or_nan(control_.top[0][head + 8], control_.top[1][head + 8])};
        const TwoHeads above = {top.a == -kInfinity ? 0.0F : top.a, top.b == -kInfinity ? 0.0F : top.b};
        TwoHeads sum = {0.0F, 0.0F};
#pragma unroll
        for (int pair = 0; pair < Pairs; ++pair) leave_weights(2 * pair + group_, lane, above, score[pair], sum);
        finish(lane, head, top, sum);
        ptx::fence_shared_async();
    }

  private:
    /// Rotary products of a first block come first, so that their place is free for those of the second block, which
    /// come last.
    template <int Pairs>
    __device__ __forceinline__ void multiply(int head, int lane, FewScores (&score)[Pairs], TwoHeads& top) const {
        constexpr int kOfBlock = kCodeSlabs + 1;
        constexpr int kGroups = Pairs * kOfBlock;
        const auto is_rotary = [](int i) { return i == 0 || i == 2 * kOfBlock - 1; };
        const auto codes_of = [](int i) { return i % kOfBlock - (i < kOfBlock ? 1 : 0); };
        const FewProducts products(base_, lane);
        float partial[2][8][4];
        const auto start = [&](int i) {
            const int block = i / kOfBlock * 2 + group_;
            if (i == kOfBlock) ptx::barrier_wait(&control_.full[block], 0);
            if (is_rotary(i)) await_rotary(control_, block);
            if (i == 0 || i == kOfBlock || is_rotary(i)) ptx::fence_shared_async();
            if (is_rotary(i))
                products.start_rotary(block, partial[i % 2]);
            else
                products.start(block, codes_of(i), partial[i % 2]);
        };
        start(0);
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
            if (i + 1 < kGroups) {
                start(i + 1);
                ptx::wgmma_wait<1>();
            } else {
                ptx::wgmma_wait<0>();
            }
            const int block = i / kOfBlock * 2 + group_;
            FewScores& sums = score[i / kOfBlock];
            if (is_rotary(i)) {
                release_rotary(control_, block);
#pragma unroll
                for (int e = 0; e < 32; ++e)
                    sums[e / 4][e % 4] =
                        i == 0 ? partial[0][e / 4][e % 4] : sums[e / 4][e % 4] + partial[i % 2][e / 4][e % 4];
            } else {
                products.add_scaled(block, codes_of(i), i == kOfBlock, partial[i % 2], sums);
            }
            if (i % kOfBlock == kCodeSlabs) {
                relate(block, head, lane, sums, top);
            }
        }
    }

    /// Scores of a block as exponents of 2, by a reference of each row.
    __device__ __forceinline__ void relate(int block, int head, int lane, FewScores& score, TwoHeads& top) const {
        ptx::barrier_wait(&control_.settled[block], 0);
        const TwoHeads factor = {control_.head_factor[head], control_.head_factor[head + 8]};
        const RowNote* const notes = &control_.note[block][2 * (lane & 3)];
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
    }

    __device__ __forceinline__ void leave_weights(int block, int lane, const TwoHeads& above, const FewScores& score,
                                                  TwoHeads& sum) const {
        const std::uint32_t tile = base_ + FewLayout::kWeights + block * FewLayout::kWeightBytes;
        const RowNote* const notes = &control_.note[block][2 * (lane & 3)];
        const int matrix = lane / 8;
        const int row = warp_ * 16 + matrix % 2 * 8 + lane % 8;
#pragma unroll
        for (int i = 0; i < kRowBlock / 16; ++i) {
            std::uint32_t words[4];
#pragma unroll
            for (int j = 2 * i; j < 2 * i + 2; ++j) {
                const float4 note = *reinterpret_cast<const float4*>(notes + 8 * j);
                const float a = exp2_fast(score[j][0] - above.a);
                const float b = exp2_fast(score[j][1] - above.a);
                const float c = exp2_fast(score[j][2] - above.b);
                const float d = exp2_fast(score[j][3] - above.b);
                sum.a = fmaf(a, note.y, fmaf(b, note.w, sum.a));
                sum.b = fmaf(c, note.y, fmaf(d, note.w, sum.b));
                words[j % 2 * 2] = pack_f16(a, b);
                words[j % 2 * 2 + 1] = pack_f16(c, d);
            }
            ptx::store_matrix_x4(tile + swizzled(row, 2 * i + matrix / 2), words);
        }
    }

    /// Leaves a head's sums; a barrier must follow.
    __device__ __forceinline__ void finish(int lane, int head, const TwoHeads& top, TwoHeads sum) const {
        sum = sum_of_quad(sum);
        if (lane % 4 != 0) return;
        control_.sum[group_][head] = sum.a;
        control_.sum[group_][head + 8] = sum.b;
        if (group_ != 0) return;
        control_.reference[head] = top.a == -kInfinity ? kNoReference : top.a;
        control_.reference[head + 8] = top.b == -kInfinity ? kNoReference : top.b;
    }

    FewControl& control_;
    std::uint32_t base_;
    int group_, warp_;
};

}  // namespace tokamak::mla::cuda::wide_decode
