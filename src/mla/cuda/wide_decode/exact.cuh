// SPDX-License-Identifier: Apache-2.0
// Scores of a token's first rows without the error of e4m3 sums: f16 products of what is in shared memory, codes and
// queries (high plus low number, which f16 holds). Sums of e4m3 products are cut 13 bits below their largest addend,
// which is 2e-4 of a score's deviation: too much where lse is made of few rows, and nothing where it averages many.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/wide_decode/exact_operands.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// While a share's live rows are no more than these, all of them are scored exactly: fewer than a whole block, such as
/// a long share begins with. (The same few rows selected again and again average no error either.)
inline constexpr int kExactRows = kRowBlock - 1;
inline constexpr int kExactHeads = 32;  ///< at a time

/// A warp's sixteen rows of a block by 32 heads, in the layout of the warpgroup's sums.
template <int Dim>
class ExactScores {
    using Raw = RawRow<Dim>;
    static constexpr int kTiles = kExactHeads / 8;

  public:
    static constexpr int kSums = 4 * kTiles;

    __device__ __forceinline__ ExactScores(std::uint32_t base, int stage, int row, int first_head, int lane)
        : row_(exact_anew(row)),
          lane_(exact_anew(lane)),
          queries_(exact_anew(base) + first_head * 128),
          rows_(exact_anew(base) + Layout<Dim>::kRows + stage * Layout<Dim>::kStageBytes),
          scales_(exact_anew(base) + Layout<Dim>::kScales + (stage * kRowBlock + row_) * Layout<Dim>::kScaleBytes) {}

    /// `low_power`, `high_power`: what the rotary products of the thread's two rows are multiplied by.
    __device__ __forceinline__ void compute(float* score, float low_power, float high_power) const {
        float sums[kTiles][4];
        clear(sums);
        for (int k = 0; k < 4; ++k) add_rotary(k, sums);
#pragma unroll
        for (int e = 0; e < kSums; ++e) score[e] = sums[e / 4][e % 4] * (e % 4 < 2 ? low_power : high_power);
        constexpr int kSteps = Raw::kCodes / Raw::kScales / 16;
#pragma unroll 1
        for (int g = 0; g < Raw::kScales; ++g) {
            clear(sums);
#pragma unroll 1
            for (int i = 0; i < kSteps; ++i) add_codes(g * kSteps + i, sums);
            const float low = scale(g, 0);
            const float high = scale(g, 8);
#pragma unroll
            for (int e = 0; e < kSums; ++e) score[e] = fmaf(sums[e / 4][e % 4], e % 4 < 2 ? low : high, score[e]);
        }
    }

  private:
    __device__ __forceinline__ static void clear(float (&sums)[kTiles][4]) {
#pragma unroll
        for (int e = 0; e < kSums; ++e) sums[e / 4][e % 4] = 0.0F;
    }
    [[nodiscard]] __device__ __forceinline__ float scale(int g, int row) const {
        const std::uint32_t at = scales_ + row * Layout<Dim>::kScaleBytes;
        if constexpr (Dim == 576) return __uint_as_float(exact_load(at + 4 * g));
        return power_scale(exact_load(at + g / 4 * 4) >> (g % 4 * 8) & 0xFFU);
    }

    /// Dimensions [16 i, 16 i + 16) of the codes. A lane has four in a row of them, in any order that both operands
    /// share.
    __device__ __forceinline__ void add_codes(int i, float (&sums)[kTiles][4]) const {
        const int slab = i / 8;
        const std::uint32_t of_rows = rows_ + slab * kSlabBytes + swizzled(row_, i % 8) + lane_ % 4 * 4;
        const std::uint32_t of_heads = queries_ + swizzled(lane_ / 4, i % 8) + lane_ % 4 * 4;
        const std::uint32_t low = exact_load(of_rows);
        const std::uint32_t high = exact_load(of_rows + 8 * 128);
        const std::uint32_t a[4] = {first_half(low), first_half(high), second_half(low), second_half(high)};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const std::uint32_t whole = exact_load(of_heads + high_queries(slab) * kSlabBytes + j * 8 * 128);
            const std::uint32_t rest = exact_load(of_heads + low_queries(slab) * kSlabBytes + j * 8 * 128);
            ptx::mma_m16n8k16_f16(sums[j], a, sum_of_halves(first_half(whole), first_half(rest)),
                                  sum_of_halves(second_half(whole), second_half(rest)), sums[j]);
        }
    }

    /// Rotary dimensions [16 k, 16 k + 16), 16-bit as they are.
    __device__ __forceinline__ void add_rotary(int k, float (&sums)[kTiles][4]) const {
        const int chunk = 2 * k + lane_ % 4 / 2;
        const std::uint32_t of_rows = rows_ + kRotarySlab * kSlabBytes + swizzled(row_, chunk) + lane_ % 2 * 8;
        const std::uint32_t of_heads =
            queries_ + kRotaryQueries * kSlabBytes + swizzled(lane_ / 4, chunk) + lane_ % 2 * 8;
        const uint2 low = load_shared_8(of_rows);
        const uint2 high = load_shared_8(of_rows + 8 * 128);
        const std::uint32_t a[4] = {low.x, high.x, low.y, high.y};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const uint2 query = load_shared_8(of_heads + j * 8 * 128);
            if constexpr (Dim == 512)
                ptx::mma_m16n8k16_f16(sums[j], a, query.x, query.y, sums[j]);
            else
                ptx::mma_m16n8k16(sums[j], a, query.x, query.y, sums[j]);
        }
    }

    int row_, lane_;
    std::uint32_t queries_, rows_, scales_;
};

}  // namespace tokamak::mla::cuda::wide_decode
