// SPDX-License-Identifier: Apache-2.0
// Softmax weights of the direct kernel, relative to the largest score of each head. A warp weighs 16 rows. A row's
// weight carries the power of two of its largest scale, so that it is what the reference compares; sums of weights take
// it out again. Values are bare codes: their scales are in the weights, of which there are as many as scales.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

class DirectWeigher {
  public:
    __device__ __forceinline__ DirectWeigher(const Params& params, DirectControl& control, std::uint32_t base, int warp,
                                             int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {}

    /// Leaves weights in the order of the operand that they are, and the sums of this warp's rows.
    __device__ __forceinline__ void weigh(Tile& score) {
        float4 scale[2][2];
        float inverse[2][2];
        mask(score);
        if (params_.max_logits != nullptr) note_top(score);
        read_scales(score, scale, inverse);
        leave_maxima(score);
        __syncthreads();
        float reference[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float top = combined(maximum_at(head(h), 0));
            reference[h] = top == -kInfinity ? kNoReference : top;
            if (warp_ == 0 && lane_ % 4 == 0) control_.reference[head(h)] = reference[h];
        }
        float sum[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                score[e][i] = exp2_fast(score[e][i] - reference[i / 2]);
                sum[i / 2] = fmaf(score[e][i], inverse[e][i % 2], sum[i / 2]);
            }
        store_weights(score, scale, inverse);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            sum[h] += __shfl_xor_sync(~0U, sum[h], 1);
            sum[h] += __shfl_xor_sync(~0U, sum[h], 2);
            if (lane_ % 4 == 0) store_float(base_ + sum_at(head(h), warp_), sum[h]);
        }
    }

  private:
    /// Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    static constexpr int kLeast = kUnitExponent - 60;
    static constexpr int kMost = kUnitExponent + 60;

    [[nodiscard]] __device__ __forceinline__ int head(int h) const { return lane_ / 4 + 8 * h; }
    /// Of this lane's column x of product e.
    [[nodiscard]] __device__ __forceinline__ int row(int e, int x) const {
        return warp_ * 16 + row_of_column(lane_ % 4 * 2 + x) + e;
    }

    __device__ __forceinline__ void mask(Tile& score) const {
#pragma unroll
        for (int x = 0; x < 2; ++x) {
            const unsigned two = load_two_bytes(base_ + valid_at(row(0, x)));
#pragma unroll
            for (int e = 0; e < 2; ++e)
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    if ((two >> (8 * e) & 1U) == 0) score[e][2 * h + x] = -kInfinity;
        }
    }

    __device__ __forceinline__ void read_scales(Tile& score, float4 (&scale)[2][2], float (&inverse)[2][2]) const {
#pragma unroll
        for (int e = 0; e < 2; ++e)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const float4 v = load_float4(base_ + kTails + row(e, x) * kTailPitch);
                scale[e][x] = v;
                const int top = max(max(finite(v.x), finite(v.y)), max(finite(v.z), finite(v.w)));
                const int exponent = max(kLeast, min(kMost, top >> 23));
                inverse[e][x] = power_of(2 * kUnitExponent - exponent);
#pragma unroll
                for (int h = 0; h < 2; ++h) score[e][2 * h + x] += static_cast<float>(exponent - kUnitExponent);
            }
    }
    [[nodiscard]] __device__ __forceinline__ static int finite(float v) {
        const int magnitude = __float_as_int(v) & 0x7FFFFFFF;
        return magnitude < 0x7F800000 ? magnitude : 0;
    }

    __device__ __forceinline__ void leave_maxima(const Tile& score) const {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = max_or_nan(max_or_nan(score[0][2 * h], score[0][2 * h + 1]),
                                   max_or_nan(score[1][2 * h], score[1][2 * h + 1]));
            top = max_or_nan(top, __shfl_xor_sync(~0U, top, 1));
            top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
            if (lane_ % 4 == 0) store_float(base_ + maximum_at(head(h), warp_), top);
        }
    }
    /// The largest of all warps' numbers of a head.
    [[nodiscard]] __device__ __forceinline__ float combined(std::uint32_t at) const {
        const float4 a = load_float4(base_ + at);
        const float4 b = load_float4(base_ + at + kCodePitch);
        return max_or_nan(max_or_nan(max_or_nan(a.x, a.y), max_or_nan(a.z, a.w)),
                          max_or_nan(max_or_nan(b.x, b.y), max_or_nan(b.z, b.w)));
    }
    /// Keeps the largest scores that the caller wants to see, which are without the powers of rows.
    __device__ __forceinline__ void note_top(const Tile& score) const {
        leave_maxima(score);
        __syncthreads();
        if (warp_ == 0 && lane_ < kHeads) control_.top[lane_] = combined(maximum_at(lane_, 0));
        __syncthreads();
    }

    __device__ __forceinline__ void store_weights(const Tile& score, const float4 (&scale)[2][2],
                                                  const float (&inverse)[2][2]) const {
        const std::uint32_t to = base_ + kTurns + warp_ * 512 + lane_ * 16;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            std::uint32_t weights[4];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float low = of_group(scale[e][0], g) * inverse[e][0];
                const float high = of_group(scale[e][1], g) * inverse[e][1];
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    weights[2 * e + h] = pack_f16(score[e][2 * h] * low, score[e][2 * h + 1] * high);
            }
            store_shared(to + g * kWeightPitch, {weights[0], weights[1], weights[2], weights[3]});
        }
    }
    [[nodiscard]] __device__ __forceinline__ static float of_group(const float4& v, int g) {
        return g < 2 ? (g == 0 ? v.x : v.y) : (g == 2 ? v.z : v.w);
    }

    const Params& params_;
    DirectControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
