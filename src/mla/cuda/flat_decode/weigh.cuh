// SPDX-License-Identifier: Apache-2.0
// From scores of a chunk of rows to its softmax weights, relative to the largest score so far of each head.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// Of the warpgroups that keep scores: one for each block of rows.
template <int Dim, int N, bool Half, int Blocks>
class Weigher {
    using S = Shape<Dim, N, Blocks>;
    static constexpr int kThreads = 128 * Blocks;
    static constexpr int kBarrier = 1;

  public:
    __device__ __forceinline__ Weigher(const Params& params, FlatControl<N, Blocks>& control, std::uint32_t base,
                                       int warp, int lane, int power)
        : params_(params),
          control_(control),
          base_(base),
          warp_(warp),
          lane_(lane),
          scale_(params.scale_log2 * power_of(power)) {}

    /// Leaves weights in shared memory, and in `correction` the factors of older sums.
    __device__ __forceinline__ void weigh(float (&score)[N / 2], bool first) {
        const int row = warp_ / 4 * kRowBlock + warp_ % 4 * 16 + lane_ / 4;
        const int low = control_.exponent[row];
        const int high = control_.exponent[row + 8];
        if (params_.max_logits != nullptr) note_top(score, low, high);
        const float factor_low = Half ? scale_ * power_of(low) : scale_;
        const float factor_high = Half ? scale_ * power_of(high) : scale_;
        const float shift_low = Half ? static_cast<float>(low - kUnitExponent) : 0.0F;
        const float shift_high = Half ? static_cast<float>(high - kUnitExponent) : 0.0F;
#pragma unroll
        for (int g = 0; g < S::kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float& a = score[4 * g + e];
                float& b = score[4 * g + 2 + e];
                a = low == kMaskedRow ? -kInfinity : fmaf(a, factor_low, shift_low);
                b = high == kMaskedRow ? -kInfinity : fmaf(b, factor_high, shift_high);
            }
        }
        column_maxima(score);
        if (thread() < N) move_reference();
        ptx::named_barrier(kBarrier, kThreads);
        store_weights(score, Half ? power_of(2 * kUnitExponent - low) : 1.0F,
                      Half ? power_of(2 * kUnitExponent - high) : 1.0F, first);
    }

    /// Sums over all rows, of the head of each of the first N threads.
    [[nodiscard]] __device__ __forceinline__ HeadSums finish() {
#pragma unroll
        for (int c = 0; c < 2 * S::kPairs; ++c) {
            float sum = sums_[c];
#pragma unroll
            for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0U, sum, step);
            if (lane_ < 4) control_.partial[warp_][8 * (c / 2) + 2 * lane_ + c % 2] = sum;
        }
        ptx::named_barrier(kBarrier, kThreads);
        if (thread() < N) {
            head_.sum = 0.0F;
#pragma unroll
            for (int w = 0; w < 4 * Blocks; ++w) head_.sum += control_.partial[w][thread()];
        }
        return head_;
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int thread() const { return warp_ * 32 + lane_; }

    __device__ __forceinline__ void column_maxima(const float (&score)[N / 2]) {
#pragma unroll
        for (int g = 0; g < S::kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float top = max_or_nan(score[4 * g + e], score[4 * g + 2 + e]);
#pragma unroll
                for (int step = 4; step < 32; step *= 2) top = max_or_nan(top, __shfl_xor_sync(~0U, top, step));
                if (lane_ < 4) control_.partial[warp_][8 * g + 2 * lane_ + e] = top;
            }
        }
        ptx::named_barrier(kBarrier, kThreads);
    }
    [[nodiscard]] __device__ __forceinline__ float partial_maximum() const {
        float top = control_.partial[0][thread()];
#pragma unroll
        for (int w = 1; w < 4 * Blocks; ++w) top = max_or_nan(top, control_.partial[w][thread()]);
        return top;
    }

    /// Keeps the largest scores that the caller wants to see, without the powers of rows.
    __device__ void note_top(const float (&score)[N / 2], int low, int high) {
        float scaled[N / 2];
#pragma unroll
        for (int e = 0; e < N / 2; ++e) {
            const int exponent = e % 4 < 2 ? low : high;
            scaled[e] = exponent == kMaskedRow ? -kInfinity : score[e] * (Half ? scale_ * power_of(exponent) : scale_);
        }
        column_maxima(scaled);
        if (thread() < N) head_.top = max_or_nan(head_.top, partial_maximum());
        ptx::named_barrier(kBarrier, kThreads);
    }

    __device__ __forceinline__ void move_reference() {
        const float top = partial_maximum();
        const float old = head_.reference;
        if (old == kNoReference ? !(top == -kInfinity) : !(top <= old)) head_.reference = top;  // also NaN
        control_.correction[thread()] = old == kNoReference ? 1.0F : exp2_fast(old - head_.reference);
        control_.reference[thread()] = head_.reference;
    }

    __device__ __forceinline__ void store_weights(const float (&score)[N / 2], float inverse_low, float inverse_high,
                                                  bool first) {
        std::uint32_t pairs[N / 4];
#pragma unroll
        for (int g = 0; g < S::kPairs; ++g) {
            const int column = 8 * g + 2 * (lane_ & 3);
            const float2 reference = *reinterpret_cast<const float2*>(&control_.reference[column]);
            const float a = exp2_fast(score[4 * g] - reference.x);
            const float b = exp2_fast(score[4 * g + 1] - reference.y);
            const float c = exp2_fast(score[4 * g + 2] - reference.x);
            const float d = exp2_fast(score[4 * g + 3] - reference.y);
            if (!first) {
                const float2 correction = *reinterpret_cast<const float2*>(&control_.correction[column]);
                sums_[2 * g] *= correction.x;
                sums_[2 * g + 1] *= correction.y;
            }
            sums_[2 * g] = fmaf(a, inverse_low, fmaf(c, inverse_high, sums_[2 * g]));
            sums_[2 * g + 1] = fmaf(b, inverse_low, fmaf(d, inverse_high, sums_[2 * g + 1]));
            pairs[2 * g] = pack_16bit<Half>(a, b);
            pairs[2 * g + 1] = pack_16bit<Half>(c, d);
        }
        store_transposed<N>(base_ + S::kWeights + warp_ / 4 * (N * 128), pairs, warp_ % 4, lane_);
    }

    const Params& params_;
    FlatControl<N, Blocks>& control_;
    std::uint32_t base_;
    int warp_, lane_;
    float scale_;
    float sums_[2 * S::kPairs] = {};
    HeadSums head_;
};

}  // namespace tokamak::mla::cuda::flat_decode
