// SPDX-License-Identifier: Apache-2.0
// Softmax weights of the direct kernel, relative to the largest score of each head. A warp weighs eight rows. A row's
// weight carries the power of two of its largest scale, so that it is what the reference compares; sums of weights take
// it out again. Values are bare codes: their scales are in the weights, of which there are as many as scales.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

template <int Dim, int Rows, int Heads>
class DirectWeigher {
    using L = Layout<Dim, Rows, Heads>;
    using Control = DirectControl<Dim, Rows, Heads>;
    using Tile = direct::Tile<Heads>;
    static constexpr int kEights = Heads / 8;
    using Ratios = typename Control::Ratios;
    using Scores = Tile[L::kOwn];

  public:
    __device__ __forceinline__ DirectWeigher(const Params& params, Control& control, std::uint32_t base, int warp,
                                             int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {}

    /// What is said of this lane's rows, while scores are still being added up.
    __device__ __forceinline__ void read_rows() {
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const int row = turn(i) / 2 * 16 + row_of_column(lane_ % 4 * 2 + x) + turn(i) % 2;
                ratio_[i][x] = control_.ratio[row];
                const float2 power = control_.power[row];
                power_[i][x] = power.x;
                inverse_[i][x] = power.y;
            }
    }

    /// Leaves weights in the order of the operand that they are, and the sums of this warp's rows.
    __device__ __forceinline__ void weigh(Scores& score) {
        mask(score);
        leave_maxima(score);
        ptx::named_barrier(kMainBarrier, kMainThreads);
#pragma unroll
        for (int h = 0; h < kEights; ++h) {
            const float top = combined_maximum(head(h));
            const float reference = top == -kInfinity ? kNoReference : top;
            if (warp_ == 0 && lane_ % 4 == 0) control_.reference[head(h)] = reference;
            float sum = 0.0F;
#pragma unroll
            for (int i = 0; i < L::kOwn; ++i)
#pragma unroll
                for (int x = 0; x < 2; ++x) {
                    float& s = score[i][2 * h + x];
                    s = exp2_fast(s - reference);
                    sum = fmaf(s, inverse_[i][x], sum);
                }
            sum = over_columns(sum, [](float v, float w) { return v + w; });
            if (lane_ % 4 == 0) control_.sum[head(h)][warp_] = sum;
        }
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i) store_weights(score[i], i);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int head(int h) const { return lane_ / 4 + 8 * h; }
    /// Of all turns of all rows, the one of this warp's eight rows number `own`.
    [[nodiscard]] __device__ __forceinline__ int turn(int own) const {
        return warp_ / 4 * L::kTurns + own * 4 + warp_ % 4;
    }

    /// Masks rows, and adds their powers to their scores.
    __device__ __forceinline__ void mask(Scores& score) const {
#pragma unroll
        for (int i = 0; i < L::kOwn; ++i)
#pragma unroll
            for (int e = 0; e < Heads / 4; ++e) {
                const float power = power_[i][e % 2];
                score[i][e] = power == -kInfinity ? -kInfinity : score[i][e] + power;
            }
    }

    /// Combines the numbers of the four lanes that have other columns of a head.
    template <typename Combine>
    [[nodiscard]] __device__ __forceinline__ static float over_columns(float v, const Combine& combine) {
        v = combine(v, __shfl_xor_sync(~0U, v, 1));
        return combine(v, __shfl_xor_sync(~0U, v, 2));
    }
    [[nodiscard]] __device__ __forceinline__ static float largest(float a, float b) { return max_or_nan(a, b); }

    /// For all warps, the largest of this warp's numbers of each head. `of`: of turn, head and column.
    template <typename Of>
    __device__ __forceinline__ void leave_largest(const Of& of) const {
#pragma unroll
        for (int h = 0; h < kEights; ++h) {
            float top = max_or_nan(of(0, h, 0), of(0, h, 1));
#pragma unroll
            for (int i = 1; i < L::kOwn; ++i) top = max_or_nan(top, max_or_nan(of(i, h, 0), of(i, h, 1)));
            top = over_columns(top, largest);
            if (lane_ % 4 == 0) control_.maximum[head(h)][warp_] = top;
        }
    }
    __device__ __forceinline__ void leave_maxima(const Scores& score) const {
        if (params_.max_logits != nullptr) note_top(score);
        leave_largest([&](int i, int h, int x) { return score[i][2 * h + x]; });
    }
    /// The largest of all warps' numbers of a head.
    [[nodiscard]] __device__ __forceinline__ float combined_maximum(int head) const {
        const float4 v = *reinterpret_cast<const float4*>(&control_.maximum[head][lane_ % 4 * 4]);
        return over_columns(max_or_nan(max_or_nan(v.x, v.y), max_or_nan(v.z, v.w)), largest);
    }
    /// Keeps the largest scores that the caller wants to see, which are without the powers of rows.
    __device__ __forceinline__ void note_top(const Scores& score) const {
        leave_largest([&](int i, int h, int x) {
            return power_[i][x] == -kInfinity ? -kInfinity : score[i][2 * h + x] - power_[i][x];
        });
        ptx::named_barrier(kMainBarrier, kMainThreads);
#pragma unroll
        for (int h = 0; h < kEights; ++h) {
            const float top = combined_maximum(head(h));
            if (warp_ == 0 && lane_ % 4 == 0) control_.top[head(h)] = top;
        }
        ptx::named_barrier(kMainBarrier, kMainThreads);
    }

    __device__ __forceinline__ void store_weights(const Tile& score, int own) const {
        const std::uint32_t to = base_ + L::kWeights + turn(own) * (16 * Heads) + lane_ * (Heads == 16 ? 8 : 4);
        if constexpr (Heads > 16) {
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                const float low = of_group(ratio_[own][0], g);
                const float high = of_group(ratio_[own][1], g);
#pragma unroll
                for (int h = 0; h < kEights; ++h)
                    store_shared_4(to + g * L::kWeightPitch + h * 128,
                                   pack_f16(score[2 * h] * low, score[2 * h + 1] * high));
            }
        } else if constexpr (Dim == 576) {
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                const float low = of_group(ratio_[own][0], g);
                const float high = of_group(ratio_[own][1], g);
                store_shared_8(to + g * L::kWeightPitch, pack_f16(score[0] * low, score[1] * high),
                               pack_f16(score[2] * low, score[3] * high));
            }
        } else {
            const __half2 weights[2] = {__floats2half2_rn(score[0], score[1]), __floats2half2_rn(score[2], score[3])};
#pragma unroll
            for (int g = 0; g < 7; ++g) {
                const std::uint32_t both =
                    __byte_perm(of_pair(ratio_[own][0], g), of_pair(ratio_[own][1], g), g % 2 == 0 ? 0x5410 : 0x7632);
                const __half2 ratio = *reinterpret_cast<const __half2*>(&both);
                store_shared_8(to + g * L::kWeightPitch, bits_of(__hmul2(weights[0], ratio)),
                               bits_of(__hmul2(weights[1], ratio)));
            }
            const float low = inverse_[own][0];
            const float high = inverse_[own][1];
            store_shared_8(to + 7 * L::kWeightPitch, pack_bf16(score[0] * low, score[1] * high),
                           pack_bf16(score[2] * low, score[3] * high));
        }
    }
    [[nodiscard]] __device__ __forceinline__ static float of_group(const float4& v, int g) {
        return g < 2 ? (g == 0 ? v.x : v.y) : (g == 2 ? v.z : v.w);
    }
    /// Ratios g and its neighbour.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t of_pair(const uint4& v, int g) {
        return g < 4 ? (g < 2 ? v.x : v.y) : (g < 6 ? v.z : v.w);
    }

    const Params& params_;
    Control& control_;
    std::uint32_t base_;
    int warp_, lane_;
    Ratios ratio_[L::kOwn][2];  ///< of this lane's rows
    float power_[L::kOwn][2], inverse_[L::kOwn][2];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
