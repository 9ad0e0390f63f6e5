// SPDX-License-Identifier: Apache-2.0
// Scores: heads x rows, as in the flat form's direct kernel, by warps of two halves of the heads.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"
#include "mla/cuda/grid_decode/shape.cuh"

namespace tokamak::mla::cuda::grid_decode {

/// Eight rows by 16 heads: a lane has heads lane / 4 + 8 h and, as [2 h + x], of columns 2 (lane % 4) + x.
using ScoreTile = direct::Tile<16>;

/// Which of the scoring warps this is.
struct Quad {
    int group;  ///< of dimensions: 128 of them
    int index, heads, half;
    __device__ __forceinline__ explicit Quad(int warp)
        : group(warp % 4), index(warp / 4), heads(warp / 4 % 2), half(warp / 8) {}
};

class GridScorer {
    using S = Shape;
    using Row = DirectRow<512>;
    struct Sums {
        ScoreTile of;
    };

  public:
    /// When the queries are there.
    __device__ __forceinline__ GridScorer(const GridControl& control, std::uint32_t base, const Quad& quad, int lane,
                                          float rotary_scale)
        : base_(base), quad_(quad), lane_(lane), has_rotary_(quad.group == 3) {
        const unsigned c = static_cast<unsigned>(lane) % 4;
        const unsigned g = static_cast<unsigned>(lane) / 4;
        const unsigned row = row_in_turn(g) + quad.half;
        codes_ = base + S::kCodes + row * Row::kCodePitch + quad.group * 128 + c * 16;
        second_ = codes_ + 64;
        if (has_rotary_) second_ = base + S::kTails + row * kTailPitch + kRotaryInTail + c * 16;
#pragma unroll
        for (int x = 0; x < 2; ++x)
            scales_[x] = base + S::kTails + (row_in_turn(2 * c + x) + quad.half) * kTailPitch + quad.group * 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            scale_[h] = control.scale[quad_.heads * 16 + lane_ / 4 + 8 * h];
            high_scale_[h] = has_rotary_ ? rotary_scale : scale_[h];
        }
        const std::uint32_t at =
            base + S::kQueries + (quad.heads * 8 + g) * S::kPairPitch + (quad.group * 128 + c * 16) * 4;
        const std::uint32_t second = at + 64 * 4 - (has_rotary_ ? c * 8 * 4 : 0);
#pragma unroll
        for (int f = 0; f < 8; ++f) {
            const std::uint32_t skipped = f >= 6 && has_rotary_ ? (32 - 8) * 4 : 0;
            const uint4 v = load_shared_16((f < 4 ? at : second + skipped) + f % 4 * 16);
            queries_[f][0] = v.x;
            queries_[f][1] = v.y;
            queries_[f][2] = v.z;
            queries_[f][3] = v.w;
        }
    }

    /// Scores two turns of eight rows each, constants, and leaves the shares for their owners, of which this warp may
    /// be one.
    __device__ __forceinline__ void score(int turn, ScoreTile& own) const {
        Sums sums[2];
        sum<2>(turn, sums);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int owner = (turn + i) % 4;
            const bool mine = owner == quad_.group;  // one copy behind a branch would be from an array in memory
#pragma unroll
            for (int e = 0; e < 4; ++e) own[e] = mine ? sums[i].of[e] : own[e];
            if (!mine) leave(partials_of(4 * quad_.index + owner) + from(owner) * S::kShareBytes, sums[i].of);
        }
    }
    /// The same for the turn of which all four warps weigh an element of a lane's four.
    __device__ __forceinline__ void score_rest() const {
        Sums sums[1];
        sum<1>(S::kRestTurn, sums);
#pragma unroll
        for (int owner = 0; owner < 4; ++owner)
            store_shared_4(rest_of(owner) + quad_.group * 128, __float_as_uint(sums[0].of[owner]));
    }

    /// Behind a barrier of the four warps.
    __device__ __forceinline__ void add_shares(ScoreTile& own) const {
        const std::uint32_t at = partials_of(4 * quad_.index + quad_.group) + lane_ * 16;
#pragma unroll
        for (int share = 0; share < 3; ++share) {
            const float4 v = load_float4(at + share * S::kShareBytes);
            own[0] += v.x;
            own[1] += v.y;
            own[2] += v.z;
            own[3] += v.w;
        }
    }
    [[nodiscard]] __device__ __forceinline__ float add_rest() const {
        float sum = 0.0F;
#pragma unroll
        for (int share = 0; share < 4; ++share) sum += load_float(rest_of(quad_.group) + share * 128);
        return sum;
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t partials_of(int warp) const {
        return base_ + S::kScores + warp * (3 * S::kShareBytes);
    }
    /// This lane's place in the first share.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t rest_of(int owner) const {
        return base_ + S::kRestScores + quad_.index * S::kRestBytes + owner * 512 + lane_ * 4;
    }
    /// Which of the three that others leave for it this warp's share is.
    [[nodiscard]] __device__ __forceinline__ int from(int owner) const { return (quad_.group - owner - 1) & 3; }
    __device__ __forceinline__ void leave(std::uint32_t at, const ScoreTile& sums) const {
        store_shared(at + lane_ * 16, {__float_as_uint(sums[0]), __float_as_uint(sums[1]), __float_as_uint(sums[2]),
                                       __float_as_uint(sums[3])});
    }

    /// Products on several sums by turns: those on the same one wait for each other.
    template <int Count>
    __device__ __forceinline__ void sum(int turn, Sums (&sums)[Count]) const {
        uint4 first[Count];
        uint4 second[Count];  // codes of the second scale, or rotary values
        std::uint32_t of_row[Count][2];
        ScoreTile low[Count] = {};
        ScoreTile high[Count] = {};
#pragma unroll
        for (int i = 0; i < Count; ++i) {
            const std::uint32_t codes = codes_ + (turn + i) * (16 * Row::kCodePitch);
            const std::uint32_t tails = (turn + i) * (16 * kTailPitch);
            first[i] = load_shared_16(codes);
            second[i] = load_shared_16(second_ + (turn + i) * second_pitch());
#pragma unroll
            for (int x = 0; x < 2; ++x) of_row[i][x] = load_shared_2(scales_[x] + tails);
        }
        if (has_rotary_) {
            uint4 third[Count];
#pragma unroll
            for (int i = 0; i < Count; ++i) third[i] = load_shared_16(second_ + (turn + i) * (16 * kTailPitch) + 64);
#pragma unroll
            for (int s = 0; s < 4; ++s)
#pragma unroll
                for (int i = 0; i < Count; ++i) {
                    multiply(s, word(first[i], s), low[i]);
                    const uint4& v = s < 2 ? second[i] : third[i];
                    ptx::mma_m16n8k16(high[i], queries_[4 + s], word(v, s % 2 * 2), word(v, s % 2 * 2 + 1), high[i]);
                }
        } else {
#pragma unroll
            for (int s = 0; s < 4; ++s)
#pragma unroll
                for (int i = 0; i < Count; ++i) {
                    multiply(s, word(first[i], s), low[i]);
                    multiply(4 + s, word(second[i], s), high[i]);
                }
        }
#pragma unroll
        for (int i = 0; i < Count; ++i)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const float of_low = __uint_as_float(of_row[i][x] << 23 & 0x7F800000U);
                const float of_high = has_rotary_ ? 1.0F : __uint_as_float(of_row[i][x] << 15 & 0x7F800000U);
#pragma unroll
                for (int e = x; e < 4; e += 2)
                    sums[i].of[e] = fmaf(low[i][e] * of_low, scale_[e / 2], high[i][e] * of_high * high_scale_[e / 2]);
            }
    }
    /// From a turn's second codes, or rotary values, to the next turn's.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t second_pitch() const {
        return has_rotary_ ? 16 * kTailPitch : 16 * Row::kCodePitch;
    }
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t word(const uint4& v, int w) {
        return w < 2 ? (w == 0 ? v.x : v.y) : (w == 2 ? v.z : v.w);
    }
    __device__ __forceinline__ void multiply(int query, std::uint32_t codes, ScoreTile& sums) const {
        ptx::mma_m16n8k16_f16(sums, queries_[query], low_codes(codes), high_codes(codes), sums);
    }

    std::uint32_t base_;
    Quad quad_;
    int lane_;
    std::uint32_t codes_, second_, scales_[2];  ///< of this lane's rows and columns in turn 0
    bool has_rotary_;
    float scale_[2], high_scale_[2];  ///< of codes; of the second scale's, or of rotary values
    std::uint32_t queries_[8][4];
};

}  // namespace tokamak::mla::cuda::grid_decode
