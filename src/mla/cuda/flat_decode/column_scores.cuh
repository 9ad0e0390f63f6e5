// SPDX-License-Identifier: Apache-2.0
// Scores of 24 heads: rows of the products are cache rows, columns are heads, of which there need not be 16 or 32. A
// warp has 16 rows and a quarter of their dimensions; shares are added by the warps that weigh, eight rows each, who
// read them with rows and heads exchanged.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

template <int Rows, int Heads>
class ColumnScorer {
    using L = Layout<576, Rows, Heads>;
    using Row = DirectRow<576>;
    using Control = DirectControl<576, Rows, Heads>;
    static constexpr int kEights = Heads / 8;

  public:
    __device__ __forceinline__ ColumnScorer(const Control& control, std::uint32_t base, int warp, int lane)
        : control_(control), base_(base), group_(warp % 4), quad_(warp / 4), lane_(lane) {
        const int c = lane % 4;
#pragma unroll
        for (int h = 0; h < kEights; ++h) {
            const std::uint32_t at = base + L::kQueries + (lane / 4 + 8 * h) * Row::kQueryPitch;
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                const uint4 v = load_shared_16(at + group_ * 256 + two / 2 * 128 + c * 32 + two % 2 * 16);
                queries_[2 * two][h] = {v.x, v.y};
                queries_[2 * two + 1][h] = {v.z, v.w};
            }
            rotary_[h] = load_shared_8(at + 1024 + group_ * 32 + c * 8);
        }
    }

    /// Scores the four warps' rows 16 half to 16 half + 15.
    __device__ __forceinline__ void score(int half) const {
        const int c = lane_ % 4;
        const int first = quad_ * 32 + half * 16 + row_of_column(lane_ / 4);  // and the next one
        const std::uint32_t codes = base_ + L::kCodes + first * Row::kCodePitch + group_ * 128 + c * 16;
        const std::uint32_t tail = base_ + L::kTails + first * kTailPitch;
        float sums[kEights][4] = {};
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            const uint4 v = load_shared_16(codes + u * 64);
            const uint4 w = load_shared_16(codes + Row::kCodePitch + u * 64);
            const std::uint32_t words[2][4] = {{v.x, v.y, v.z, v.w}, {w.x, w.y, w.z, w.w}};
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                const std::uint32_t a[4] = {low_codes(words[0][s]), low_codes(words[1][s]), high_codes(words[0][s]),
                                            high_codes(words[1][s])};
#pragma unroll
                for (int h = 0; h < kEights; ++h)
                    ptx::mma_m16n8k16_f16(sums[h], a, queries_[4 * u + s][h].x, queries_[4 * u + s][h].y, sums[h]);
            }
        }
        const uint2 v = load_shared_8(tail + kRotaryInTail + group_ * 32 + c * 8);
        const uint2 w = load_shared_8(tail + kTailPitch + kRotaryInTail + group_ * 32 + c * 8);
        const std::uint32_t a[4] = {v.x, w.x, v.y, w.y};
#pragma unroll
        for (int x = 0; x < 2; ++x) {
            const float of_row = load_float(tail + x * kTailPitch + group_ * 4);
#pragma unroll
            for (int h = 0; h < kEights; ++h) {
                sums[h][2 * x] *= of_row;
                sums[h][2 * x + 1] *= of_row;
            }
        }
#pragma unroll
        for (int h = 0; h < kEights; ++h) ptx::mma_m16n8k16(sums[h], a, rotary_[h].x, rotary_[h].y, sums[h]);
        leave(half, sums);
    }

    /// Behind a barrier of the warps that have the same rows.
    __device__ __forceinline__ void add_shares(int warp, Tile<Heads>& own) const {
        const std::uint32_t at = base_ + L::kScores + warp * L::kPartialBytes + lane_ % 4 * 8;
#pragma unroll
        for (int h = 0; h < kEights; ++h) {
            const int head = lane_ / 4 + 8 * h;
            float2 sum = {0.0F, 0.0F};
#pragma unroll
            for (int share = 0; share < 4; ++share) {
                const uint2 v = load_shared_8(at + share * L::kShareBytes + place_of(head) * 32);
                sum.x += __uint_as_float(v.x);
                sum.y += __uint_as_float(v.y);
            }
            const float scale = control_.scale[head];
            own[2 * h] = sum.x * scale;
            own[2 * h + 1] = sum.y * scale;
        }
    }

  private:
    /// Of a head's eight scores: even and odd heads so far apart that neither stores nor loads meet in a bank.
    [[nodiscard]] __device__ static constexpr int place_of(int head) { return head / 2 + head % 2 * 14; }

    __device__ __forceinline__ void leave(int half, const float (&sums)[kEights][4]) const {
#pragma unroll
        for (int x = 0; x < 2; ++x) {
            const std::uint32_t at = base_ + L::kScores + (quad_ * 4 + 2 * half + x) * L::kPartialBytes +
                                     group_ * L::kShareBytes + lane_ / 4 * 4;
#pragma unroll
            for (int h = 0; h < kEights; ++h)
#pragma unroll
                for (int y = 0; y < 2; ++y)
                    store_shared_4(at + place_of(8 * h + lane_ % 4 * 2 + y) * 32, __float_as_uint(sums[h][2 * x + y]));
        }
    }

    const Control& control_;
    std::uint32_t base_;
    int group_, quad_, lane_;
    uint2 queries_[8][kEights];
    uint2 rotary_[kEights];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
