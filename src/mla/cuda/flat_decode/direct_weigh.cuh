// SPDX-License-Identifier: Apache-2.0
// Softmax weights of the direct kernel, relative to the largest score of each head. A warp weighs 16 rows. A row's
// weight carries the power of two of its largest scale, so that it is what the reference compares; sums of weights take
// it out again. Values are bare codes: their scales are in the weights, of which there are as many as scales.
#pragma once

#include "mla/cuda/flat_decode/direct_scores.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

template <int M>
class DirectWeigher {
    using L = Layout<M>;

  public:
    __device__ __forceinline__ DirectWeigher(const Params& params, DirectControl<M>& control, std::uint32_t base,
                                             int warp, int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {}

    /// Leaves weights in the order of the operand that they are, and the sums of this warp's rows.
    __device__ __forceinline__ void weigh(Tile<M>& score) {
        mask(score);
        if (params_.max_logits != nullptr) note_top(score);
        read_scales(score);
        leave_maxima(score);
        __syncthreads();
#pragma unroll
        for (int m = 0; m < M; ++m) {
            float sum[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float top = combined(maximum_at(head(m, h), 0));
                const float reference = top == -kInfinity ? kNoReference : top;
                if (warp_ == 0 && lane_ % 4 == 0) control_.reference[head(m, h)] = reference;
                sum[h] = 0.0F;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float& s = score[m][i / 2][2 * h + i % 2];
                    s = exp2_fast(s - reference);
                    sum[h] = fmaf(s, inverse_[i / 2][i % 2], sum[h]);
                }
                sum[h] += __shfl_xor_sync(~0U, sum[h], 1);
                sum[h] += __shfl_xor_sync(~0U, sum[h], 2);
                if (lane_ % 4 == 0) store_float(base_ + sum_at(head(m, h), warp_), sum[h]);
            }
        }
        store_weights(score);
    }

  private:
    /// Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    static constexpr int kLeast = kUnitExponent - 60;
    static constexpr int kMost = kUnitExponent + 60;

    [[nodiscard]] __device__ __forceinline__ int head(int m, int h) const { return 16 * m + lane_ / 4 + 8 * h; }
    /// Of this lane's column x of product e.
    [[nodiscard]] __device__ __forceinline__ int row(int e, int x) const {
        return warp_ * 16 + row_of_column(lane_ % 4 * 2 + x) + e;
    }

    __device__ __forceinline__ void mask(Tile<M>& score) const {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (control_.valid[row(i / 2, i % 2)] == 0) {
#pragma unroll
                for (int m = 0; m < M; ++m) score[m][i / 2][i % 2] = score[m][i / 2][2 + i % 2] = -kInfinity;
            }
    }

    __device__ __forceinline__ void read_scales(Tile<M>& score) {
#pragma unroll
        for (int e = 0; e < 2; ++e)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const float4 v = load_float4(base_ + L::kTails + row(e, x) * kTailPitch);
                scale_[e][x] = v;
                const int top = max(max(finite(v.x), finite(v.y)), max(finite(v.z), finite(v.w)));
                const int exponent = max(kLeast, min(kMost, top >> 23));
                inverse_[e][x] = power_of(2 * kUnitExponent - exponent);
#pragma unroll
                for (int m = 0; m < M; ++m)
#pragma unroll
                    for (int h = 0; h < 2; ++h) score[m][e][2 * h + x] += static_cast<float>(exponent - kUnitExponent);
            }
    }
    [[nodiscard]] __device__ __forceinline__ static int finite(float v) {
        const int magnitude = __float_as_int(v) & 0x7FFFFFFF;
        return magnitude < 0x7F800000 ? magnitude : 0;
    }

    __device__ __forceinline__ void leave_maxima(const Tile<M>& score) const {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float top = max_or_nan(max_or_nan(score[m][0][2 * h], score[m][0][2 * h + 1]),
                                       max_or_nan(score[m][1][2 * h], score[m][1][2 * h + 1]));
                top = max_or_nan(top, __shfl_xor_sync(~0U, top, 1));
                top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
                if (lane_ % 4 == 0) store_float(base_ + maximum_at(head(m, h), warp_), top);
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
    __device__ __forceinline__ void note_top(const Tile<M>& score) const {
        leave_maxima(score);
        __syncthreads();
        if (warp_ == 0 && lane_ < 16 * M) control_.top[lane_] = combined(maximum_at(lane_, 0));
        __syncthreads();
    }

    __device__ __forceinline__ void store_weights(const Tile<M>& score) const {
        const std::uint32_t to = base_ + L::kTurns + warp_ * 512 + lane_ * 16;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            float factor[2][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) factor[i / 2][i % 2] = of_group(scale_[i / 2][i % 2], g) * inverse_[i / 2][i % 2];
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const auto pair = [&](int e, int h) {
                    return pack_f16(score[m][e][2 * h] * factor[e][0], score[m][e][2 * h + 1] * factor[e][1]);
                };
                store_shared(to + (g * M + m) * kWeightPitch, {pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1)});
            }
        }
    }
    [[nodiscard]] __device__ __forceinline__ static float of_group(const float4& v, int g) {
        return g < 2 ? (g == 0 ? v.x : v.y) : (g == 2 ? v.z : v.w);
    }

    const Params& params_;
    DirectControl<M>& control_;
    std::uint32_t base_;
    int warp_, lane_;
    float4 scale_[2][2];    ///< of this lane's rows
    float inverse_[2][2];  ///< of their largest scales, as powers of two
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
