// SPDX-License-Identifier: Apache-2.0
// Softmax weights of the direct kernel, relative to the largest score of each head. A warp weighs eight rows. A row's
// weight carries the power of two of its largest scale, so that it is what the reference compares; sums of weights take
// it out again. Values are bare codes: their scales are in the weights, of which there are as many as scales.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

class DirectWeigher {
    using L = Layout;

  public:
    __device__ __forceinline__ DirectWeigher(const Params& params, DirectControl& control, std::uint32_t base, int warp,
                                             int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {}

    /// Leaves weights in the order of the operand that they are, and the sums of this warp's rows.
    __device__ __forceinline__ void weigh(Tile& score) {
#pragma unroll
        for (int x = 0; x < 2; ++x) read_row(score, x);
        leave_maxima(score);
        ptx::named_barrier(kMainBarrier, kMainThreads);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float top = combined_maximum(head(h));
            const float reference = top == -kInfinity ? kNoReference : top;
            if (warp_ == 0 && lane_ % 4 == 0) control_.reference[head(h)] = reference;
            float& a = score[2 * h];
            float& b = score[2 * h + 1];
            a = exp2_fast(a - reference);
            b = exp2_fast(b - reference);
            const float sum =
                over_columns(fmaf(a, inverse_[0], b * inverse_[1]), [](float v, float w) { return v + w; });
            if (lane_ % 4 == 0) control_.sum[head(h)][warp_] = sum;
        }
        store_weights(score);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int head(int h) const { return lane_ / 4 + 8 * h; }

    /// Masks this lane's row x, and adds its power to its scores.
    __device__ __forceinline__ void read_row(Tile& score, int x) {
        const int row = warp_ / 2 * 16 + row_of_column(lane_ % 4 * 2 + x) + warp_ % 2;
        ratio_[x] = control_.ratio[row];
        const float2 power = control_.power[row];
        power_[x] = power.x;
        inverse_[x] = power.y;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float& s = score[2 * h + x];
            s = power.x == -kInfinity ? -kInfinity : s + power.x;
        }
    }

    /// Combines the numbers of the four lanes that have other columns of a head.
    template <typename Combine>
    [[nodiscard]] __device__ __forceinline__ static float over_columns(float v, const Combine& combine) {
        v = combine(v, __shfl_xor_sync(~0U, v, 1));
        return combine(v, __shfl_xor_sync(~0U, v, 2));
    }
    [[nodiscard]] __device__ __forceinline__ static float largest(float a, float b) { return max_or_nan(a, b); }

    __device__ __forceinline__ void leave_maxima(const Tile& score) const {
        if (params_.max_logits != nullptr) note_top(score);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float top = over_columns(max_or_nan(score[2 * h], score[2 * h + 1]), largest);
            if (lane_ % 4 == 0) control_.maximum[head(h)][warp_] = top;
        }
    }
    /// The largest of all warps' numbers of a head.
    [[nodiscard]] __device__ __forceinline__ float combined_maximum(int head) const {
        const float4 v = *reinterpret_cast<const float4*>(&control_.maximum[head][lane_ % 4 * 4]);
        return over_columns(max_or_nan(max_or_nan(v.x, v.y), max_or_nan(v.z, v.w)), largest);
    }
    /// Keeps the largest scores that the caller wants to see, which are without the powers of rows.
    __device__ __forceinline__ void note_top(const Tile& score) const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const auto bare = [&](int x) {
                return power_[x] == -kInfinity ? -kInfinity : score[2 * h + x] - power_[x];
            };
            const float top = over_columns(max_or_nan(bare(0), bare(1)), largest);
            if (lane_ % 4 == 0) control_.maximum[head(h)][warp_] = top;
        }
        ptx::named_barrier(kMainBarrier, kMainThreads);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float top = combined_maximum(head(h));
            if (warp_ == 0 && lane_ % 4 == 0) control_.top[head(h)] = top;
        }
        ptx::named_barrier(kMainBarrier, kMainThreads);
    }

    __device__ __forceinline__ void store_weights(const Tile& score) const {
        const std::uint32_t to = base_ + L::kTurns + warp_ * 256 + lane_ * 8;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            const float low = of_group(ratio_[0], g);
            const float high = of_group(ratio_[1], g);
            store_shared_8(to + g * kWeightPitch, pack_f16(score[0] * low, score[1] * high),
                           pack_f16(score[2] * low, score[3] * high));
        }
    }
    [[nodiscard]] __device__ __forceinline__ static float of_group(const float4& v, int g) {
        return g < 2 ? (g == 0 ? v.x : v.y) : (g == 2 ? v.z : v.w);
    }

    const Params& params_;
    DirectControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    float4 ratio_[2];  ///< of this lane's rows
    float power_[2], inverse_[2];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
