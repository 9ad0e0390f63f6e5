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

    /// Asks for the queries. No branch around a load, so that none waits for another.
    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        if (params.q_vectors)
            load_all<true>(params, token, first_head);
        else
            load_all<false>(params, token, first_head);
    }

    /// Queries of codes become f16, divided by a power of two for each head that leaves the largest element just below
    /// 2^15; rotary ones stay as they are.
    /// Heads past the last are zero.
    __device__ __forceinline__ void convert(int heads) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (16 * t + 8 * half + lane_ / 4 >= heads) {
#pragma unroll
                    for (int s = 0; s < kSteps; ++s) queries_[t][s][half] = queries_[t][s][half + 2] = 0;
                }
                unsigned top = largest(t, half);
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

    /// Scores of sixteen rows in this warp's dimensions, to `partial`.
    __device__ __forceinline__ void score(const unsigned char* raw, unsigned char* partial) const {
        const unsigned char* const rows = raw + row_tile_ * 16 * Raw::kStride;
        const unsigned char* const own = rows + row_of(lane_ / 4) * Raw::kStride;
        TileScores<kHeadTiles> scores;
        if constexpr (Dim == 576)
            score_576(rows, own, scores);
        else
            score_512(rows, own, scores);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t) {
                const float(&v)[4] = scores[r][t];
                *reinterpret_cast<float4*>(partial + (share_ * kHeadTiles + t) * S::kTileBytes +
                                           ((row_tile_ * 2 + r) * 32 + lane_) * 16) = {v[0], v[1], v[2], v[3]};
            }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ bool is_codes(int step) const {
        if constexpr (Dim == 576) return step < 8;
        return step < 4 || share_ < kShares - 1;
    }

    /// Largest magnitude of a lane's finite queries of codes, as bf16.
    [[nodiscard]] __device__ __forceinline__ unsigned largest(int t, int half) const {
        unsigned both = 0;
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
            if (!is_codes(s)) continue;
            both = __vmaxu2(both, __vmaxu2(queries_[t][s][half] & 0x7FFF7FFFU, queries_[t][s][half + 2] & 0x7FFF7FFFU));
        }
        unsigned top = max(both & 0xFFFFU, both >> 16);
        if (top < 0x7F80U) return top;
        top = 0;
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
            if (is_codes(s)) top = max(top, top_of({queries_[t][s][half], queries_[t][s][half + 2], 0, 0}));
        return top;
    }

    template <bool Vectors>
    __device__ __forceinline__ void load_all(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride;
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int head = first_head + 16 * t + 8 * half + lane_ / 4;
                load_head<Vectors>(q + (head < params.heads ? head : 0) * params.q_head_stride, t, half);
            }
        }
    }

    /// Sixteen bytes at a time, in the order of score_codes; rotary queries in that of the rotary reads.
    template <bool Vectors>
    __device__ __forceinline__ void load_head(const std::uint16_t* q, int t, int half) {
        const int c = lane_ & 3;
        const auto put = [&](int step, std::uint32_t low, std::uint32_t high) {
            queries_[t][step][half] = low;
            queries_[t][step][half + 2] = high;
        };
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // 64 dimensions are 16 of each lane
            int dim = share_ * 128 + i / 2 * 64 + c * 16 + i % 2 * 8;
            if (Dim == 512 && share_ == kShares - 1 && i >= 2) dim = 448 + (i - 2) * 32 + c * 8;
            const uint4 v = Vectors ? __ldg(reinterpret_cast<const uint4*>(q + dim)) : load_eight(q + dim);
            put(2 * i, v.x, v.y);
            put(2 * i + 1, v.z, v.w);
        }
        if constexpr (Dim == 576) {
            const std::uint16_t* const from = q + 512 + share_ * 16 + c * 4;
            if constexpr (Vectors) {
                const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
                put(8, v.x, v.y);
            } else {
                put(8, from[0] | static_cast<std::uint32_t>(from[1]) << 16,
                    from[2] | static_cast<std::uint32_t>(from[3]) << 16);
            }
        }
    }

    [[nodiscard]] __device__ __forceinline__ static uint4 load_16(const unsigned char* from) {
        return *reinterpret_cast<const uint4*>(from);
    }
    /// Codes [64 i, 64 i + 64) of this warp's.
    __device__ __forceinline__ void score_piece(const unsigned char* own, int i, TileScores<kHeadTiles>& scores) const {
        const unsigned char* const from = own + share_ * 128 + i * 64 + (lane_ & 3) * 16;
        score_codes(scores, queries_, 4 * i, load_16(from), load_16(from + Raw::kStride));
    }

    /// What is no number in a scale must not be lost: an infinite scale makes its scores NaN.
    [[nodiscard]] __device__ __forceinline__ static float settled(float scale) { return fmaf(scale, 0.0F, scale); }

    /// scores += (codes * scale of the row) * factor of the head. scale(row)
    template <typename Scale>
    __device__ __forceinline__ void add_scaled(TileScores<kHeadTiles>& scores, const TileScores<kHeadTiles>& codes,
                                               const Scale& scale) const {
        const int c = lane_ & 3;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float scales[2] = {settled(scale(row_of(2 * c) + r)), settled(scale(row_of(2 * c + 1) + r))};
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    scores[r][t][e] = fmaf(codes[r][t][e], scales[e % 2] * factor_[t][e / 2], scores[r][t][e]);
        }
    }
    __device__ __forceinline__ void scale_rotary(TileScores<kHeadTiles>& scores) const {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[r][t][e] *= scale_;
    }

    __device__ __forceinline__ void score_576(const unsigned char* rows, const unsigned char* own,
                                              TileScores<kHeadTiles>& scores) const {
        TileScores<kHeadTiles> codes = {};
        score_piece(own, 0, codes);
        score_piece(own, 1, codes);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const auto two = *reinterpret_cast<const uint2*>(own + r * Raw::kStride + Raw::kRotaryByte + share_ * 32 +
                                                             (lane_ & 3) * 8);
#pragma unroll
            for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[r][t][e] = 0.0F;
                multiply_add<false>(scores[r][t], queries_[t][8], two.x, two.y);
            }
        }
        scale_rotary(scores);
        add_scaled(scores, codes, [&](int row) {
            return *reinterpret_cast<const float*>(rows + row * Raw::kStride + Raw::kScaleByte + share_ * 4);
        });
    }

    __device__ __forceinline__ void score_512(const unsigned char* rows, const unsigned char* own,
                                              TileScores<kHeadTiles>& scores) const {
        const auto scale_of = [&](int row, int group) {
            return power_scale(rows[row * Raw::kStride + Raw::kScaleByte + group]);
        };
        TileScores<kHeadTiles> first = {};
        TileScores<kHeadTiles> second = {};
        score_piece(own, 0, first);
        if (share_ < kShares - 1) {
            score_piece(own, 1, second);
            for (auto& of_tile : scores)
                for (auto& of_head : of_tile)
                    for (float& v : of_head) v = 0.0F;
            add_scaled(scores, second, [&](int row) { return scale_of(row, 2 * share_ + 1); });
        } else {
            score_rotary(own, second);
            for (int r = 0; r < 2; ++r)
                for (int t = 0; t < kHeadTiles; ++t)
                    for (int e = 0; e < 4; ++e) scores[r][t][e] = second[r][t][e];
            scale_rotary(scores);
        }
        add_scaled(scores, first, [&](int row) { return scale_of(row, 2 * share_); });
    }

    __device__ __forceinline__ void score_rotary(const unsigned char* own, TileScores<kHeadTiles>& scores) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const uint4 v = load_16(own + r * Raw::kStride + Raw::kRotaryByte + i * 64 + (lane_ & 3) * 16);
#pragma unroll
                for (int t = 0; t < kHeadTiles; ++t) {
                    multiply_add<false>(scores[r][t], queries_[t][4 + 2 * i], v.x, v.y);
                    multiply_add<false>(scores[r][t], queries_[t][5 + 2 * i], v.z, v.w);
                }
            }
        }
    }

    float scale_;
    int row_tile_, share_, lane_;
    std::uint32_t queries_[kHeadTiles][kSteps][4];
    float factor_[kHeadTiles][2];  ///< of scores of codes
};

}  // namespace tokamak::mla::cuda::direct_decode
