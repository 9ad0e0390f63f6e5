// SPDX-License-Identifier: Apache-2.0
// From scores to softmax weights, relative to the largest score of each head, and their sums.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// Of the warpgroups that keep scores: one for each block of rows.
template <int Dim, int N, bool Half, int Blocks>
class Weigher {
    using S = Shape<Dim, N, Half, Blocks>;
    static constexpr int kThreads = 128 * Blocks;
    static constexpr int kBarrier = kWeighBarrier;

  public:
    __device__ __forceinline__ Weigher(const Params& params, FlatControl<N, Blocks>& control, std::uint32_t base,
                                       int warp, int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {}

    /// Leaves weights in shared memory.
    __device__ __forceinline__ void weigh(float (&score)[N / 2]) {
        const int row = warp_ / 4 * kRowBlock + warp_ % 4 * 16 + lane_ / 4;
        const int low = control_.exponent[row];
        const int high = control_.exponent[row + 8];
        const float factor_low = Half ? power_of(low) : 1.0F;
        const float factor_high = Half ? power_of(high) : 1.0F;
        const float shift_low = Half ? static_cast<float>(low - kUnitExponent) : 0.0F;
        const float shift_high = Half ? static_cast<float>(high - kUnitExponent) : 0.0F;
#pragma unroll
        for (int g = 0; g < S::kPairs; ++g) {
            const float2 scale = *reinterpret_cast<const float2*>(&control_.scale[8 * g + 2 * (lane_ & 3)]);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float of_column = e == 0 ? scale.x : scale.y;
                float& a = score[4 * g + e];
                float& b = score[4 * g + 2 + e];
                a = low == kMaskedRow ? -kInfinity : a * of_column * factor_low;
                b = high == kMaskedRow ? -kInfinity : b * of_column * factor_high;
            }
        }
        if (params_.max_logits != nullptr) note_top(score);
        if constexpr (Half) {
#pragma unroll
            for (int e = 0; e < N / 2; ++e) score[e] += e % 4 < 2 ? shift_low : shift_high;
        }
        column_maxima(score);
        if (thread() < N) {
            const float top = partial_maximum();
            control_.reference[thread()] = top == -kInfinity ? kNoReference : top;
        }
        ptx::named_barrier(kBarrier, kThreads);
        store_weights(score, Half ? power_of(2 * kUnitExponent - low) : 1.0F,
                      Half ? power_of(2 * kUnitExponent - high) : 1.0F);
    }

    /// Leaves the sums of every warp's rows in `partial`, for all threads that weigh.
    __device__ __forceinline__ void leave_sums() {
        to_partial(sums_, [](float a, float b) { return a + b; });
    }
    /// Behind `leave_sums` of all warps: of a head.
    [[nodiscard]] __device__ __forceinline__ float sum_of(int h) const {
        float sum = 0.0F;
#pragma unroll
        for (int w = 0; w < 4 * Blocks; ++w) sum += control_.partial[w][h];
        return sum;
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int thread() const { return warp_ * 32 + lane_; }

    /// Combines the columns of a warp over its rows, the lanes `Step` apart and those nearer. They halve the columns
    /// among each other as long as there is an even number left. `own`: the first of the lane's columns.
    template <int Left, int Step, typename Combine>
    __device__ __forceinline__ void over_rows(float (&column)[2 * S::kPairs], int own, const Combine& combine) {
        if constexpr (Step < 4) {
#pragma unroll
            for (int c = 0; c < Left; ++c)
                control_.partial[warp_][(own + c) / 2 * 8 + 2 * (lane_ & 3) + (own + c) % 2] = column[c];
        } else if constexpr (Left % 2 == 0) {
            const bool upper = (lane_ & Step) != 0;
#pragma unroll
            for (int c = 0; c < Left / 2; ++c) {
                const float given = upper ? column[c] : column[c + Left / 2];
                const float kept = upper ? column[c + Left / 2] : column[c];
                column[c] = combine(kept, __shfl_xor_sync(~0U, given, Step));
            }
            over_rows<Left / 2, Step / 2>(column, own + (upper ? Left / 2 : 0), combine);
        } else {
#pragma unroll
            for (int c = 0; c < Left; ++c) column[c] = combine(column[c], __shfl_xor_sync(~0U, column[c], Step));
            over_rows<Left, Step / 2>(column, own, combine);
        }
    }
    template <typename Combine>
    __device__ __forceinline__ void to_partial(float (&column)[2 * S::kPairs], const Combine& combine) {
        over_rows<2 * S::kPairs, 16>(column, 0, combine);
        ptx::named_barrier(kBarrier, kThreads);
    }
    __device__ __forceinline__ void column_maxima(const float (&score)[N / 2]) {
        float top[2 * S::kPairs];
#pragma unroll
        for (int c = 0; c < 2 * S::kPairs; ++c)
            top[c] = max_or_nan(score[c / 2 * 4 + c % 2], score[c / 2 * 4 + 2 + c % 2]);
        to_partial(top, [](float a, float b) { return max_or_nan(a, b); });
    }
    [[nodiscard]] __device__ __forceinline__ float partial_maximum() const {
        float top = control_.partial[0][thread()];
#pragma unroll
        for (int w = 1; w < 4 * Blocks; ++w) top = max_or_nan(top, control_.partial[w][thread()]);
        return top;
    }

    /// Keeps the largest scores that the caller wants to see, which are without the powers of rows.
    __device__ __forceinline__ void note_top(const float (&score)[N / 2]) {
        column_maxima(score);
        if (thread() < N) control_.top[thread()] = partial_maximum();
        ptx::named_barrier(kBarrier, kThreads);
    }

    __device__ __forceinline__ void store_weights(const float (&score)[N / 2], float inverse_low, float inverse_high) {
        std::uint32_t pairs[N / 4];
#pragma unroll
        for (int g = 0; g < S::kPairs; ++g) {
            const int column = 8 * g + 2 * (lane_ & 3);
            const float2 reference = *reinterpret_cast<const float2*>(&control_.reference[column]);
            const float a = exp2_fast(score[4 * g] - reference.x);
            const float b = exp2_fast(score[4 * g + 1] - reference.y);
            const float c = exp2_fast(score[4 * g + 2] - reference.x);
            const float d = exp2_fast(score[4 * g + 3] - reference.y);
            sums_[2 * g] = fmaf(a, inverse_low, c * inverse_high);
            sums_[2 * g + 1] = fmaf(b, inverse_low, d * inverse_high);
            pairs[2 * g] = pack_16bit<Half>(a, b);
            pairs[2 * g + 1] = pack_16bit<Half>(c, d);
        }
        store_transposed<N>(base_ + S::kWeights + warp_ / 4 * (N * 128), pairs, warp_ % 4, lane_);
    }

    const Params& params_;
    FlatControl<N, Blocks>& control_;
    std::uint32_t base_;
    int warp_, lane_;
    float sums_[2 * S::kPairs];
};

}  // namespace tokamak::mla::cuda::flat_decode
