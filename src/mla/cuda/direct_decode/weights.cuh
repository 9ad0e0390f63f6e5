// SPDX-License-Identifier: Apache-2.0
// From scores to softmax weights. A thread has two rows of one head (for each sixteen heads), the same head in every
// block. Weights are relative to a reference exponent of the head and come in versions, each times one scale of its
// row, so that values stay the codes that they are. The reference compares scores plus the exponent of the row's
// largest scale, and moves only when a weight leaves the range that f16 holds well.
#pragma once

#include "mla/cuda/direct_decode/fragments.cuh"
#include "mla/cuda/direct_decode/shape.cuh"

namespace tokamak::mla::cuda::direct_decode {

/// log2 of the weight of a row at its head's reference, but for the mantissa of its scale: scales that are smaller than
/// the largest one of their row keep their precision.
inline constexpr int kWeightBits = 6;
/// Weights above 2^14 move the reference; those of rows whose scales are all tiny, at 2^80.
inline constexpr std::uint32_t kLargestWeight = 0x7400;  ///< as f16
inline constexpr float kLargestUnscaled = 0x1p80F;
/// Exponents of rows of one token differ by so little that f32 holds weights relative to one reference.
inline constexpr int kLargestExponent = 60;

template <int Dim>
struct TwoRowScales {
    static constexpr int kCount = RawRow<Dim>::kScales;
    std::uint32_t words[2][Dim == 576 ? 4 : 2];

    __device__ __forceinline__ TwoRowScales(const unsigned char* low, const unsigned char* high) {
        if constexpr (Dim == 576) {
            const auto a = *reinterpret_cast<const uint4*>(low);
            const auto b = *reinterpret_cast<const uint4*>(high);
            words[0][0] = a.x, words[0][1] = a.y, words[0][2] = a.z, words[0][3] = a.w;
            words[1][0] = b.x, words[1][1] = b.y, words[1][2] = b.z, words[1][3] = b.w;
        } else {
            const auto a = *reinterpret_cast<const uint2*>(low);
            const auto b = *reinterpret_cast<const uint2*>(high);
            words[0][0] = a.x, words[0][1] = a.y;
            words[1][0] = b.x, words[1][1] = b.y;
        }
    }
    /// Scale `i`; of 512, the smallest, 2^-127, as 0: nothing of it is left in a weight.
    [[nodiscard]] __device__ __forceinline__ float scale(int row, int i) const {
        if constexpr (Dim == 576) return __uint_as_float(words[row][i]);
        return __uint_as_float((words[row][i / 4] >> (i % 4 * 8) & 0xFFU) << 23);
    }
    /// Of the largest finite scale.
    [[nodiscard]] __device__ __forceinline__ float exponent(int row) const {
        unsigned top = 0;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const unsigned bits = __float_as_uint(scale(row, i)) & 0x7FFFFFFFU;
            top = max(top, bits < 0x7F800000U ? bits : 0U);
        }
        const int exponent = static_cast<int>(top >> 23) - kUnitExponent;
        return static_cast<float>(max(-kLargestExponent, min(kLargestExponent, exponent)));
    }
};

/// Larger of the magnitudes, in each half; NaN counts as largest.
__device__ __forceinline__ std::uint32_t larger_magnitudes(std::uint32_t a, std::uint32_t b) {
    std::uint32_t y;
    asm("{\n .reg .b32 m;\n abs.f16x2 m, %2;\n max.NaN.f16x2 %0, %1, m;\n}" : "=r"(y) : "r"(a), "r"(b));
    return y;
}

template <int Dim, int N, int Groups>
class Weigher {
    using S = Shape<Dim, N, Groups>;
    using Raw = RawRow<Dim>;
    using Control = DirectControl<Dim, N, Groups>;
    static constexpr int kHeadTiles = S::kHeadTiles;

  public:
    /// `thread`: of the group.
    __device__ __forceinline__ Weigher(const Params& params, Control& control, unsigned char* partial,
                                       unsigned char* weights, int group, int thread)
        : control_(control),
          partial_(partial),
          weights_(weights),
          group_(group),
          thread_(thread),
          note_top_(params.max_logits != nullptr) {
        const int c = thread >> 1 & 3;
        const int first = (thread >> 7) * 16 + (thread >> 6 & 1);
        low_row_ = first + row_of(2 * c);
        high_row_ = first + row_of(2 * c + 1);
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            reference_[t] = kNoReference;
            sum_[t] = 0.0F;
            top_[t] = -kInfinity;
        }
    }

    /// Of a block whose scores are complete. Returns whether references moved: then sums so far must be multiplied by
    /// control.correction. All threads of the group call it; behind it, weights are complete.
    __device__ __forceinline__ bool weigh(const unsigned char* raw, int stage) {
        const TwoRowScales<Dim> scales = scales_of(raw);
        float own[kHeadTiles];
        bool beyond = false;
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const float2 s = scores(t, stage);
            if (note_top_) top_[t] = max_or_nan(top_[t], max_or_nan(s.x, s.y));
            beyond |= store(t, s, scales, own[t]);
        }
        if (!ptx::named_barrier_any(kGroupBarrier + group_, kGroupThreads, beyond)) {
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t) sum_[t] += own[t];
            return false;
        }
        move_references(raw, stage);
        return true;
    }

    /// The group's sums, to control.of_group; all its threads, and a barrier must follow.
    __device__ __forceinline__ void leave_sums() {
        float sum[kHeadTiles];
        over_rows(sum_, sum, [](float a, float b) { return a + b; });
        if (note_top_) {
            ptx::named_barrier(kGroupBarrier + group_, kGroupThreads);
            over_rows(top_, top_, [](float a, float b) { return max_or_nan(a, b); });
        }
        if (is_first()) {
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t)
                control_.of_group[group_][head(t)] = {reference_[t], sum[t], top_[t], 0.0F};
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int head(int t) const {
        return 16 * t + 8 * (thread_ & 1) + (thread_ >> 3 & 7);
    }
    /// One thread of those with a head.
    [[nodiscard]] __device__ __forceinline__ bool is_first() const { return thread_ < 64 && (thread_ & 6) == 0; }

    [[nodiscard]] __device__ __forceinline__ TwoRowScales<Dim> scales_of(const unsigned char* raw) const {
        return {raw + low_row_ * Raw::kStride + Raw::kScaleByte, raw + high_row_ * Raw::kStride + Raw::kScaleByte};
    }
    [[nodiscard]] __device__ __forceinline__ float2 scores(int t, int stage) const {
        float2 s = {control_.bias[group_][stage][low_row_], control_.bias[group_][stage][high_row_]};
#pragma unroll
        for (int q = 0; q < kShares; ++q) {
            const auto part =
                *reinterpret_cast<const float2*>(partial_ + (q * kHeadTiles + t) * S::kTileBytes + thread_ * 8);
            s.x += part.x;
            s.y += part.y;
        }
        return s;
    }

    /// Stores all versions of the weights; `own`: their sum without scales. Says whether they leave their range.
    __device__ __forceinline__ bool store(int t, float2 s, const TwoRowScales<Dim>& scales, float& own) {
        const float low = exp2_fast(s.x - reference_[t]);
        const float high = exp2_fast(s.y - reference_[t]);
        own = low + high;
        std::uint32_t top = 0;
        unsigned char* const to = weights_ + t * (S::kVersionBytes / kHeadTiles) + thread_ * 4;
#pragma unroll
        for (int v = 0; v < Raw::kScales; ++v) {
            const std::uint32_t pair = pack_f16(low * scales.scale(0, v), high * scales.scale(1, v));
            *reinterpret_cast<std::uint32_t*>(to + v * S::kVersionBytes) = pair;
            top = larger_magnitudes(top, pair);
        }
        if constexpr (Raw::kVersions > Raw::kScales)
            *reinterpret_cast<std::uint32_t*>(to + Raw::kScales * S::kVersionBytes) = pack_bf16(low, high);
        return (top & 0xFFFFU) > kLargestWeight || (top >> 16) > kLargestWeight || !(own <= kLargestUnscaled);
    }

    /// The rare case, and every first block's.
    __device__ __forceinline__ void move_references(const unsigned char* raw, int stage) {
        const TwoRowScales<Dim> scales = scales_of(raw);
        const float low = scales.exponent(0) - kWeightBits;
        const float high = scales.exponent(1) - kWeightBits;
        float above[kHeadTiles];
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const float2 s = scores(t, stage);
            above[t] = max_or_nan(s.x + low, s.y + high);
        }
        over_rows(above, above, [](float a, float b) { return max_or_nan(a, b); });
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const bool none = reference_[t] == kNoReference;
            float correction = 1.0F;
            if (none ? !(above[t] == -kInfinity) : !(above[t] - reference_[t] <= kWeightBits)) {
                if (!none) correction = exp2_fast(reference_[t] - above[t]);
                reference_[t] = above[t];
            }
            if (is_first()) control_.correction[group_][head(t)] = correction;
            float own;
            (void)store(t, scores(t, stage), scales, own);
            sum_[t] = fmaf(sum_[t], correction, own);
        }
        ptx::named_barrier(kGroupBarrier + group_, kGroupThreads);
    }

    /// Combines the threads of a head: four lanes, then four warps.
    template <typename Combine>
    __device__ __forceinline__ void over_rows(const float (&of)[kHeadTiles], float (&all)[kHeadTiles],
                                              const Combine& combine) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            float v = combine(of[t], __shfl_xor_sync(~0U, of[t], 2));
            v = combine(v, __shfl_xor_sync(~0U, v, 4));
            if ((thread_ & 6) == 0) control_.partial[group_][thread_ >> 6][head(t)] = v;
        }
        ptx::named_barrier(kGroupBarrier + group_, kGroupThreads);
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const int h = head(t);
            all[t] = combine(combine(control_.partial[group_][0][h], control_.partial[group_][1][h]),
                             combine(control_.partial[group_][2][h], control_.partial[group_][3][h]));
        }
    }

    Control& control_;
    unsigned char* partial_;
    unsigned char* weights_;
    int group_, thread_;
    bool note_top_;
    int low_row_, high_row_;
    float reference_[kHeadTiles];
    float sum_[kHeadTiles];
    float top_[kHeadTiles];
};

}  // namespace tokamak::mla::cuda::direct_decode
