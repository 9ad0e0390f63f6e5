// SPDX-License-Identifier: Apache-2.0
// Softmax weights relative to the largest score of each head, as in the flat form's direct kernel, but in one version
// for the codes: the scales come in with the values.
#pragma once

#include "mla/cuda/grid_decode/scores.cuh"

namespace tokamak::mla::cuda::grid_decode {

/// By a scoring warp: its tile of eight rows and, of the fifth turn, a row and a head of each lane.
class GridWeigher {
    using S = Shape;

  public:
    __device__ __forceinline__ GridWeigher(GridControl& control, std::uint32_t base, const Quad& quad, int lane)
        : control_(control), base_(base), quad_(quad), lane_(lane) {}

    /// What is said of this lane's rows.
    __device__ __forceinline__ void read_rows() {
        const float4 two = *reinterpret_cast<const float4*>(&control_.power[eight(quad_.group)][lane_ % 4 * 2]);
        power_[0] = two.x;
        inverse_[0] = two.y;
        power_[1] = two.z;
        inverse_[1] = two.w;
        rest_ = control_.power[eight(S::kRestTurn)][lane_ % 4 * 2 + quad_.group % 2];
    }

    /// `meet()`: waits for all warps.
    template <typename Meet>
    __device__ __forceinline__ void weigh(ScoreTile& score, float& rest, const Meet& meet) const {
        const bool rest_first = quad_.group < 2;  // of the lane's two heads
        rest = masked(rest, rest_.x);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = rest_first == (h == 0) ? rest : -kInfinity;
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                score[2 * h + x] = masked(score[2 * h + x], power_[x]);
                top = max_or_nan(top, score[2 * h + x]);
            }
            top = over_columns(top, larger);
            if (lane_ % 4 == 0) control_.maximum[head(h)][slot()] = top;
        }
        meet();
        float reference[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float2 v = *reinterpret_cast<const float2*>(&control_.maximum[head(h)][lane_ % 4 * 2]);
            const float top = over_columns(max_or_nan(v.x, v.y), larger);
            reference[h] = top == -kInfinity ? kNoReference : top + kAbove;
            if (slot() == 0 && lane_ % 4 == 0) control_.reference[head(h)] = reference[h];
        }
        rest = exp2_fast(rest - (rest_first ? reference[0] : reference[1]));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = rest_first == (h == 0) ? rest * rest_.y : 0.0F;
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                float& s = score[2 * h + x];
                s = exp2_fast(s - reference[h]);
                sum = fmaf(s, inverse_[x], sum);
            }
            sum = over_columns(sum, [](float a, float b) { return a + b; });
            if (lane_ % 4 == 0) control_.sum[head(h)][slot()] = sum;
        }
        store(score, rest);
    }

  private:
    /// References are so much above the largest score that the sums of codes or rotary values, below 2^10, times
    /// weights of 80 rows stay in the range of f16.
    static constexpr float kAbove = 1.0F;

    __device__ __forceinline__ void store(const ScoreTile& s, float rest) const {
        const std::uint32_t to = weights_of(eight(quad_.group));
        store_shared_8(to, pack_f16(s[0], s[1]), pack_f16(s[2], s[3]));
        const float low = inverse_[0];
        const float high = inverse_[1];
        store_shared_8(to + S::kWeightPitch, pack_bf16(s[0] * low, s[1] * high), pack_bf16(s[2] * low, s[3] * high));
        const std::uint32_t rest_to = weights_of(eight(S::kRestTurn)) + quad_.group * 2;
        store_shared_2(rest_to, pack_f16(rest, 0.0F));
        store_shared_2(rest_to + S::kWeightPitch, pack_bf16(rest * rest_.y, 0.0F));
    }
    __device__ __forceinline__ static void store_shared_2(std::uint32_t at, std::uint32_t low) {
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(static_cast<std::uint16_t>(low)) : "memory");
    }

    [[nodiscard]] __device__ __forceinline__ static float masked(float score, float power) {
        return power == -kInfinity ? -kInfinity : score + power;
    }
    [[nodiscard]] __device__ __forceinline__ int head(int h) const { return quad_.heads * 16 + lane_ / 4 + 8 * h; }
    [[nodiscard]] __device__ __forceinline__ int slot() const { return quad_.half * 4 + quad_.group; }
    [[nodiscard]] __device__ __forceinline__ int eight(int turn) const { return 2 * turn + quad_.half; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t weights_of(int eight) const {
        return base_ + S::kWeights + (quad_.heads * 2 * S::kTurns + eight) * 256 + lane_ * 8;
    }
    /// Combines the numbers of the four lanes that have other columns of a head.
    template <typename Combine>
    [[nodiscard]] __device__ __forceinline__ static float over_columns(float v, const Combine& combine) {
        v = combine(v, __shfl_xor_sync(~0U, v, 1));
        return combine(v, __shfl_xor_sync(~0U, v, 2));
    }
    [[nodiscard]] __device__ __forceinline__ static float larger(float a, float b) { return max_or_nan(a, b); }

    GridControl& control_;
    std::uint32_t base_;
    Quad quad_;
    int lane_;
    float power_[2], inverse_[2];
    float2 rest_;  ///< x: power, y: inverse
};

}  // namespace tokamak::mla::cuda::grid_decode
