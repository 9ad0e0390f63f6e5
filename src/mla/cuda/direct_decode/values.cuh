// SPDX-License-Identifier: Apache-2.0
// Weighted values: a warp sums 64 dimensions of all rows of its group. A lane ends with 16 consecutive dimensions of
// heads lane / 4 and lane / 4 + 8: 64 warp + 16 (lane % 4) + 8 half + tile.
#pragma once

#include "mla/cuda/direct_decode/fragments.cuh"
#include "mla/cuda/direct_decode/shape.cuh"

namespace tokamak::mla::cuda::direct_decode {

template <int Dim, int N, int Groups>
class Values {
    using S = Shape<Dim, N, Groups>;
    using Raw = RawRow<Dim>;
    static constexpr int kHeadTiles = S::kHeadTiles;

  public:
    __device__ __forceinline__ Values(int warp, int lane) : warp_(warp), lane_(lane) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t)
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e) sums_[t][i][e] = 0.0F;
    }

    /// Adds rows 16 i to 16 i + 15 of a block.
    __device__ __forceinline__ void add(const unsigned char* raw, const unsigned char* weights, int i) {
        const int version = Dim == 576 ? warp_ / 2 : warp_;
        std::uint32_t a[kHeadTiles][4];
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const unsigned char* const from =
                weights + version * S::kVersionBytes + t * (S::kVersionBytes / kHeadTiles) + i * 512 + lane_ * 8;
            const auto even = *reinterpret_cast<const uint2*>(from);
            const auto odd = *reinterpret_cast<const uint2*>(from + 256);
            a[t][0] = even.x, a[t][1] = even.y, a[t][2] = odd.x, a[t][3] = odd.y;
        }
        const int c = lane_ & 3;
        const unsigned char* const rows = raw + i * 16 * Raw::kStride;
        const unsigned char* const low = rows + row_of(2 * c) * Raw::kStride;
        const unsigned char* const high = rows + row_of(2 * c + 1) * Raw::kStride;
        if (Dim == 576 || warp_ < kGroupWarps - 1) {
            const int at = warp_ * 64 + lane_ / 4 * 8;
            const auto codes = [at](const unsigned char* row) { return *reinterpret_cast<const uint2*>(row + at); };
            add_codes(sums_, a, {codes(low), codes(high), codes(low + Raw::kStride), codes(high + Raw::kStride)});
        } else {
            const int at = Raw::kRotaryByte + lane_ / 4 * 16;
            const auto eight = [at](const unsigned char* row) { return *reinterpret_cast<const uint4*>(row + at); };
            add_bf16(sums_, a, {eight(low), eight(high), eight(low + Raw::kStride), eight(high + Raw::kStride)});
        }
    }

    /// Multiplies every head by its entry of `factors`.
    __device__ __forceinline__ void scale(const float* factors) {
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
            const float low = factors[16 * t + lane_ / 4];
            const float high = factors[16 * t + 8 + lane_ / 4];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                sums_[t][i][0] *= low;
                sums_[t][i][1] *= low;
                sums_[t][i][2] *= high;
                sums_[t][i][3] *= high;
            }
        }
    }

    /// Of head 16 t + 8 eight + lane / 4, dimension `half` * 8 + i of the lane's sixteen.
    [[nodiscard]] __device__ __forceinline__ float& at(int t, int eight, int half, int i) {
        return sums_[t][i][2 * eight + half];
    }

  private:
    int warp_, lane_;
    float sums_[kHeadTiles][8][4];
};

}  // namespace tokamak::mla::cuda::direct_decode
