// SPDX-License-Identifier: Apache-2.0
// Scores of the direct kernel: heads x rows. A warp has 32 rows and, of these, 128 codes (one scale) and 16 rotary
// values; four warps' shares of a score are added by the one that weighs the row.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Fragment of the heads by eight rows, columns as row_of_column has them.
using Tile = float[4];

class Scorer {
    using L = Layout;

  public:
    __device__ __forceinline__ Scorer(const Params& params, const DirectControl& control, std::uint32_t base, int warp,
                                      int lane)
        : base_(base), group_(warp % 4), first_row_(warp / 4 * 32), lane_(lane), rotary_scale_(params.scale_log2) {
        const int c = lane % 4;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = lane / 4 + 8 * h;
            scale_[h] = control.scale[head];
            const std::uint32_t at = base + L::kQueries + head * kQueryPitch;
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                const uint4 v = load_shared_16(at + group_ * 256 + two / 2 * 128 + c * 32 + two % 2 * 16);
                queries_[2 * two][h] = v.x;
                queries_[2 * two][2 + h] = v.y;
                queries_[2 * two + 1][h] = v.z;
                queries_[2 * two + 1][2 + h] = v.w;
            }
            const uint2 rotary = load_shared_8(at + 1024 + group_ * 32 + c * 8);
            rotary_[h] = rotary.x;
            rotary_[2 + h] = rotary.y;
        }
    }

    /// Scores 16 rows; leaves shares for their owners and keeps the own eight rows'.
    __device__ __forceinline__ void score(int half, Tile& own) const {
        const int g = lane_ / 4;
        const int c = lane_ % 4;
        const int row = first_row_ + half * 16 + row_of_column(g);
        const std::uint32_t codes = base_ + L::kCodes + row * kCodePitch + group_ * 128 + c * 16;
        const std::uint32_t rotary = base_ + L::kTails + row * kTailPitch + kRotaryInTail + group_ * 32 + c * 8;
        Tile sums[2] = {};
        Tile rotaries[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 v = load_shared_8(rotary + e * kTailPitch);
            ptx::mma_m16n8k16(rotaries[e], rotary_, v.x, v.y, rotaries[e]);
        }
#pragma unroll
        for (int u = 0; u < 2; ++u)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const uint4 v = load_shared_16(codes + e * kCodePitch + u * 64);
                const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int s = 0; s < 4; ++s)
                    ptx::mma_m16n8k16_f16(sums[e], queries_[4 * u + s], low_codes(words[s]), high_codes(words[s]),
                                          sums[e]);
            }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            scale_tile(first_row_ + half * 16 + e, sums[e], rotaries[e]);
            give(2 * half + e, sums[e], own);
        }
    }

    /// Behind a barrier of the warps that have the same rows.
    __device__ __forceinline__ void add_shares(int warp, Tile& own) const {
        const std::uint32_t at = base_ + L::kTurns + warp * L::kPartialBytes + lane_ * 16;
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
    /// `first`: row of column 0.
    __device__ __forceinline__ void scale_tile(int first, Tile& sums, const Tile& rotaries) const {
        const std::uint32_t at = base_ + L::kTails + first * kTailPitch + group_ * 4;
#pragma unroll
        for (int x = 0; x < 2; ++x) {
            const float of_row = load_float(at + row_of_column(lane_ % 4 * 2 + x) * kTailPitch);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float& sum = sums[2 * h + x];
                sum = fmaf(sum * of_row, scale_[h], rotaries[2 * h + x] * rotary_scale_);
            }
        }
    }

    /// `eight`: of the warp's 32 rows.
    __device__ __forceinline__ void give(int eight, const Tile& sums, Tile& own) const {
        if (eight == group_) {
#pragma unroll
            for (int i = 0; i < 4; ++i) own[i] = sums[i];
            return;
        }
        const std::uint32_t at = base_ + L::kTurns + (first_row_ / 8 + eight) * L::kPartialBytes +
                                 ((group_ - eight - 1) & 3) * 512 + lane_ * 16;
        store_shared(at, {__float_as_uint(sums[0]), __float_as_uint(sums[1]), __float_as_uint(sums[2]),
                          __float_as_uint(sums[3])});
    }

    std::uint32_t base_;
    int group_, first_row_, lane_;
    float rotary_scale_;
    float scale_[2];
    std::uint32_t queries_[8][4];
    std::uint32_t rotary_[4];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
