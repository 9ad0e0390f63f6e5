// SPDX-License-Identifier: Apache-2.0
// Scores of the direct kernel: heads x rows. Four warps have the same rows, a quarter of their dimensions each: 128
// codes, and of 576 16 rotary values beside them, of 512 64 in place of the last 64 codes. They score eight rows a
// turn; their shares of a score are added by the one that weighs the row.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Eight rows by heads: a lane has heads lane / 4 + 8 h and, as [2 h + x], of the rows that row_of_column has for
/// columns 2 (lane % 4) + x.
template <int Heads>
using Tile = float[Heads / 4];

template <int Dim, int Rows>
class Scorer {
    using L = Layout<Dim, Rows, 16>;
    using Tile = direct::Tile<16>;
    using Row = DirectRow<Dim>;
    using Control = DirectControl<Dim, Rows, 16>;

  public:
    __device__ __forceinline__ Scorer(const Params& params, const Control& control, std::uint32_t base, int warp,
                                      int lane)
        : base_(base),
          group_(warp % 4),
          quad_(warp / 4),
          lane_(lane),
          rotary_scale_(params.scale_log2),
          has_rotary_(Dim == 512 && warp % 4 == 3) {
        const int c = lane % 4;
        const int first = quad_ * (L::kTurns * 8);
        const int row = first + row_of_column(lane / 4);
        codes_ = base + L::kCodes + row * Row::kCodePitch + group_ * 128 + c * 16;
        rotary_at_ = base + L::kTails + row * kTailPitch + kRotaryInTail + (Dim == 576 ? group_ * 32 + c * 8 : c * 16);
#pragma unroll
        for (int x = 0; x < 2; ++x)
            scales_[x] =
                base + L::kTails + (first + row_of_column(2 * c + x)) * kTailPitch + group_ * (Dim == 576 ? 4 : 2);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = lane / 4 + 8 * h;
            scale_[h] = control.scale[head];
            const std::uint32_t at = base + L::kQueries + head * Row::kQueryPitch;
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                const bool rotary = two >= 2 && has_rotary_;
                const int own = rotary ? c * 16 + two % 2 * 64 : c * 32 + two % 2 * 16;
                const uint4 v = load_shared_16(at + group_ * 256 + two / 2 * 128 + own);
                queries_[2 * two][h] = v.x;
                queries_[2 * two][2 + h] = v.y;
                queries_[2 * two + 1][h] = v.z;
                queries_[2 * two + 1][2 + h] = v.w;
            }
            if constexpr (Dim == 576) {
                const uint2 rotary = load_shared_8(at + 1024 + group_ * 32 + c * 8);
                rotary_[h] = rotary.x;
                rotary_[2 + h] = rotary.y;
            }
        }
    }

    /// Scores eight rows; leaves the share for their owner, unless that is this warp. `turn` should be a constant:
    /// addresses found anew take as long as the products.
    __device__ __forceinline__ void score(int turn, Tile& own) const {
        const int row = turn / 2 * 16 + turn % 2;
        const std::uint32_t codes = codes_ + row * Row::kCodePitch;
        const std::uint32_t rotary = rotary_at_ + row * kTailPitch;
        Tile sums[2] = {};  // a scale each, of 512
        if constexpr (Dim == 576) {
            const uint4 low = load_shared_16(codes);
            const uint4 high = load_shared_16(codes + 64);
            const uint2 v = load_shared_8(rotary);
            const float of_row[2] = {load_float(scales_[0] + row * kTailPitch),
                                     load_float(scales_[1] + row * kTailPitch)};
            Tile rotaries = {};
            ptx::mma_m16n8k16(rotaries, rotary_, v.x, v.y, rotaries);
            multiply_codes(low, 0, sums[0]);
            multiply_codes(high, 1, sums[1]);
            scale_sums(of_row, sums, rotaries);
        } else {
            const std::uint32_t of_row[2] = {load_shared_2(scales_[0] + row * kTailPitch),
                                             load_shared_2(scales_[1] + row * kTailPitch)};
            multiply_codes(load_shared_16(codes), 0, sums[0]);
            if (has_rotary_)
                multiply_rotary(rotary, sums[1]);
            else
                multiply_codes(load_shared_16(codes + 64), 1, sums[1]);
            scale_groups(of_row, sums);
        }
        give(turn % 4, sums[0], own);
    }

    /// Behind a barrier of the warps that have the same rows.
    __device__ __forceinline__ void add_shares(int warp, Tile& own) const {
        const std::uint32_t at = base_ + L::kScores + warp * L::kPartialBytes + lane_ * 16;
#pragma unroll
        for (int share = 0; share < 3; ++share) {
            const float4 v = load_float4(at + share * 512);
            own[0] += v.x;
            own[1] += v.y;
            own[2] += v.z;
            own[3] += v.w;
        }
    }

  private:
    /// `half`: of this warp's codes.
    __device__ __forceinline__ void multiply_codes(const uint4& v, int half, Tile& sums) const {
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int s = 0; s < 4; ++s)
            ptx::mma_m16n8k16_f16(sums, queries_[4 * half + s], low_codes(words[s]), high_codes(words[s]), sums);
    }
    __device__ __forceinline__ void multiply_rotary(std::uint32_t rotary, Tile& sums) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 v = load_shared_16(rotary + i * 64);
            ptx::mma_m16n8k16(sums, queries_[4 + 2 * i], v.x, v.y, sums);
            ptx::mma_m16n8k16(sums, queries_[5 + 2 * i], v.z, v.w, sums);
        }
    }

    __device__ __forceinline__ void scale_sums(const float (&of_row)[2], Tile (&sums)[2], const Tile& rotaries) const {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            sums[0][i] = fmaf((sums[0][i] + sums[1][i]) * of_row[i % 2], scale_[i / 2], rotaries[i] * rotary_scale_);
    }
    __device__ __forceinline__ void scale_groups(const std::uint32_t (&of_row)[2], Tile (&sums)[2]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float low = power_scale(of_row[i % 2] & 0xFFU);
            const float high = has_rotary_ ? rotary_scale_ : power_scale(of_row[i % 2] >> 8);
            sums[0][i] =
                fmaf(sums[0][i] * low, scale_[i / 2], sums[1][i] * high * (has_rotary_ ? 1.0F : scale_[i / 2]));
        }
    }

    /// `owner`: of the four warps.
    __device__ __forceinline__ void give(int owner, const Tile& sums, Tile& own) const {
        if (owner == group_) {
#pragma unroll
            for (int i = 0; i < 4; ++i) own[i] = sums[i];
            return;
        }
        const std::uint32_t at =
            base_ + L::kScores + (quad_ * 4 + owner) * L::kPartialBytes + ((group_ - owner - 1) & 3) * 512 + lane_ * 16;
        store_shared(at, {__float_as_uint(sums[0]), __float_as_uint(sums[1]), __float_as_uint(sums[2]),
                          __float_as_uint(sums[3])});
    }

    std::uint32_t base_;
    std::uint32_t codes_, rotary_at_, scales_[2];  ///< of this lane's rows and columns in turn 0
    int group_, quad_, lane_;
    float rotary_scale_;
    bool has_rotary_;
    float scale_[2];
    std::uint32_t queries_[8][4];
    std::uint32_t rotary_[4];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
