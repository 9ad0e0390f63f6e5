// SPDX-License-Identifier: Apache-2.0
// Scores of a group's rows: a warp has sixteen rows by a quarter of their dimensions, and its queries in registers. The
// products of codes with one scale are summed by themselves, then multiplied by it in f32.
#pragma once

#include "mla/cuda/direct_decode/fragments.cuh"
#include "mla/cuda/direct_decode/shape.cuh"
#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"

namespace tokamak::mla::cuda::direct_decode {

template <int Dim, int N, int Groups>
class Scorer {
    using S = Shape<Dim, N, Groups>;
    using Raw = RawRow<Dim>;
    static constexpr int kHeadTiles = S::kHeadTiles;
    static constexpr int kSteps = Dim == 576 ? 9 : 8;  ///< of sixteen dimensions; 576: the last one is rotary

  public:
    __device__ __forceinline__ Scorer(const Params& params, int warp, int lane)
        : scale_(params.scale_log2), row_tile_(warp & 1), share_(warp >> 1), lane_(lane) {}

    /// Asks for the queries.
    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride;
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int head = first_head + 16 * t + 8 * half + lane_ / 4;
                load_head(q + head * params.q_head_stride, head < params.heads, params.q_vectors, t, half);
            }
        }
    }

    /// Queries of codes become f16, divided by a power of two for each head that leaves the largest element just below
    /// 2^15; rotary ones stay as they are.
    __device__ __forceinline__ void convert() {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                unsigned top = 0;
#pragma unroll
                for (int s = 0; s < kSteps; ++s)
                    if (is_codes(s)) top = max(top, top_of({queries_[t][s][half], queries_[t][s][half + 2], 0, 0}));
                top = max(top, __shfl_xor_sync(~0U, top, 1));
                top = max(top, __shfl_xor_sync(~0U, top, 2));
                const int power = max(15, static_cast<int>(top >> 7) - 14);
                factor_[t][half] = scale_ * power_of(power);
                const float inverse = power_of(2 * kUnitExponent - power);
#pragma unroll
                for (int s = 0; s < kSteps; ++s) {
                    if (!is_codes(s)) continue;
                    queries_[t][s][half] = scale_bf16(queries_[t][s][half], inverse);
                    queries_[t][s][half + 2] = scale_bf16(queries_[t][s][half + 2], inverse);
                }
            }
        }
    }

    /// Scores of eight rows, the even or the odd ones, in this warp's dimensions, to `partial`.
    __device__ __forceinline__ void score(const unsigned char* raw, unsigned char* partial, int tile) const {
        const unsigned char* const rows = raw + (row_tile_ * 16 + tile) * Raw::kStride;
        const unsigned char* const own = rows + row_of(lane_ / 4) * Raw::kStride;
        const int c = lane_ & 3;
        const int low = row_of(2 * c);
        const int high = row_of(2 * c + 1);
        float scores[kHeadTiles][4];
        if constexpr (Dim == 576)
            score_576(rows, own, low, high, scores);
        else
            score_512(rows, own, low, high, scores);
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
            *reinterpret_cast<float4*>(partial + (share_ * kHeadTiles + t) * S::kTileBytes +
                                       ((row_tile_ * 2 + tile) * 32 + lane_) * 16) = {scores[t][0], scores[t][1],
                                                                                      scores[t][2], scores[t][3]};
    }

  private:
    [[nodiscard]] __device__ __forceinline__ bool is_codes(int step) const {
        if constexpr (Dim == 576) return step < 8;
        return step < 4 || share_ < kShares - 1;
    }

    /// Sixteen bytes at a time, in the order of score_codes; rotary queries in that of the rotary reads.
    __device__ __forceinline__ void load_head(const std::uint16_t* q, bool real, bool vectors, int t, int half) {
        const int c = lane_ & 3;
        const auto eight = [&](int dim) {
            if (!real) return uint4{0, 0, 0, 0};
            return vectors ? __ldg(reinterpret_cast<const uint4*>(q + dim)) : load_eight(q + dim);
        };
        const auto put = [&](int step, std::uint32_t low, std::uint32_t high) {
            queries_[t][step][half] = low;
            queries_[t][step][half + 2] = high;
        };
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // 64 dimensions are 16 of each lane
            int dim = share_ * 128 + i / 2 * 64 + c * 16 + i % 2 * 8;
            if (Dim == 512 && share_ == kShares - 1 && i >= 2) dim = 448 + (i - 2) * 32 + c * 8;
            const uint4 v = eight(dim);
            put(2 * i, v.x, v.y);
            put(2 * i + 1, v.z, v.w);
        }
        if constexpr (Dim == 576) {
            const uint4 v = eight(512 + share_ * 16 + c / 2 * 8);
            put(8, c % 2 == 0 ? v.x : v.z, c % 2 == 0 ? v.y : v.w);
        }
    }

    /// What is no number in a scale must not be lost: an infinite scale makes its scores NaN.
    [[nodiscard]] __device__ __forceinline__ static float settled(float scale) { return fmaf(scale, 0.0F, scale); }

    /// d += (codes * scale of the row) * factor of the head
    template <bool First>
    __device__ __forceinline__ void add_scaled(float (&d)[kHeadTiles][4], const float (&codes)[kHeadTiles][4],
                                               float low, float high) const {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float factor = (e % 2 == 0 ? low : high) * factor_[t][e / 2];
                d[t][e] = First ? codes[t][e] * factor : fmaf(codes[t][e], factor, d[t][e]);
            }
        }
    }

    __device__ __forceinline__ void score_576(const unsigned char* rows, const unsigned char* own, int low, int high,
                                              float (&scores)[kHeadTiles][4]) const {
        const int c = lane_ & 3;
        float codes[kHeadTiles][4] = {};
        score_codes(codes, queries_, 0, *reinterpret_cast<const uint4*>(own + share_ * 128 + c * 16));
        score_codes(codes, queries_, 4, *reinterpret_cast<const uint4*>(own + share_ * 128 + 64 + c * 16));
        float rotary[kHeadTiles][4] = {};
        const auto two = *reinterpret_cast<const uint2*>(own + Raw::kRotaryByte + share_ * 32 + c * 8);
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) multiply_add<false>(rotary[t], queries_[t][8], two.x, two.y);
        const auto scale = [&](int row) {
            return settled(*reinterpret_cast<const float*>(rows + row * Raw::kStride + Raw::kScaleByte + share_ * 4));
        };
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[t][e] = rotary[t][e] * scale_;
        add_scaled<false>(scores, codes, scale(low), scale(high));
    }

    __device__ __forceinline__ void score_512(const unsigned char* rows, const unsigned char* own, int low, int high,
                                              float (&scores)[kHeadTiles][4]) const {
        const int c = lane_ & 3;
        const auto scale = [&](int row, int group) {
            return settled(power_scale(rows[row * Raw::kStride + Raw::kScaleByte + group]));
        };
        float codes[kHeadTiles][4] = {};
        score_codes(codes, queries_, 0, *reinterpret_cast<const uint4*>(own + share_ * 128 + c * 16));
        add_scaled<true>(scores, codes, scale(low, 2 * share_), scale(high, 2 * share_));
        float second[kHeadTiles][4] = {};
        if (share_ < kShares - 1) {
            score_codes(second, queries_, 4, *reinterpret_cast<const uint4*>(own + share_ * 128 + 64 + c * 16));
            add_scaled<false>(scores, second, scale(low, 2 * share_ + 1), scale(high, 2 * share_ + 1));
            return;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const auto v = *reinterpret_cast<const uint4*>(own + Raw::kRotaryByte + i * 64 + c * 16);
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t) {
                multiply_add<false>(second[t], queries_[t][4 + 2 * i], v.x, v.y);
                multiply_add<false>(second[t], queries_[t][5 + 2 * i], v.z, v.w);
            }
        }
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[t][e] = fmaf(second[t][e], scale_, scores[t][e]);
    }

    float scale_;
    int row_tile_, share_, lane_;
    std::uint32_t queries_[kHeadTiles][kSteps][4];
    float factor_[kHeadTiles][2];  ///< of scores of codes
};

}  // namespace tokamak::mla::cuda::direct_decode
