// SPDX-License-Identifier: Apache-2.0
// Output: heads x dimensions, 32 of each for a warp. Bytes of two rows become the two halves of an operand's register;
// codes converted once serve both halves of the heads. Weights meet the scales of the warp's dimensions here.
#pragma once

#include "mla/cuda/flat_decode/direct_values.cuh"
#include "mla/cuda/grid_decode/shape.cuh"

namespace tokamak::mla::cuda::grid_decode {

/// Of 16 rows by the warp's 32 dimensions. Product t has, as its column g, dimension 4 g + t.
using ValueTile = std::uint32_t[4][2];

class GridValues {
    using S = Shape;
    static constexpr int kCodePitch = DirectRow<512>::kCodePitch;

  public:
    /// `ratios`: the address of control.ratio.
    __device__ __forceinline__ GridValues(std::uint32_t base, std::uint32_t ratios, int warp, int lane)
        : rotary_(warp >= DirectRow<512>::kCodes / 32) {
        const unsigned c = static_cast<unsigned>(lane) % 4;
        weights_ = base + S::kWeights + lane * 8 + (rotary_ ? S::kWeightPitch : 0);
        ratios_ = ratios + warp / 2 * (kGridRows * 2) + c * 4;
        const std::uint32_t values = rotary_ ? base + S::kTails + kRotaryInTail + warp % 2 * 64 + lane / 4 * 8
                                             : base + S::kCodes + warp * 32 + lane / 4 * 4;
        const int pitch = rotary_ ? kTailPitch : kCodePitch;
        low_ = values + row_in_turn(2 * c) * pitch;
        high_ = values + row_in_turn(2 * c + 1) * pitch;
    }

    /// `publish(heads, output)` when a half of the heads is done.
    template <typename Publish>
    __device__ __forceinline__ void multiply(const Publish& publish) const {
        ValueTile tiles[S::kTurns];
#pragma unroll
        for (int tile = 0; tile < S::kTurns; ++tile) {
            if (rotary_)
                load_rotary(tile, tiles[tile]);
            else
                load_codes(tile, tiles[tile]);
        }
#pragma unroll
        for (int heads = 0; heads < 2; ++heads) {
            std::uint32_t a[S::kTurns][4];
            Output out = {};
#pragma unroll
            for (int tile = 0; tile < S::kTurns; ++tile) load_weights(tile, heads, a[tile]);
            if (rotary_) {
#pragma unroll
                for (int tile = 0; tile < S::kTurns; ++tile) multiply_rotary(a[tile], tiles[tile], out);
            } else {
#pragma unroll
                for (int tile = 0; tile < S::kTurns; ++tile) scale(tile, a[tile]);
#pragma unroll
                for (int tile = 0; tile < S::kTurns; ++tile) multiply_codes(a[tile], tiles[tile], out);
            }
            publish(heads, out);
        }
    }

  private:
    __device__ __forceinline__ void load_weights(int tile, int heads, std::uint32_t (&a)[4]) const {
        const std::uint32_t at = weights_ + (heads * S::kTurns + tile) * 512;
        const uint2 first = load_shared_8(at);
        const uint2 second = load_shared_8(at + 256);
        a[0] = first.x;
        a[1] = first.y;
        a[2] = second.x;
        a[3] = second.y;
    }
    __device__ __forceinline__ void scale(int tile, std::uint32_t (&a)[4]) const {
        const std::uint32_t low = load_shared_4(ratios_ + tile * 32);
        const std::uint32_t high = load_shared_4(ratios_ + tile * 32 + 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = product(a[i], i < 2 ? low : high);
    }
    __device__ __forceinline__ static void multiply_codes(const std::uint32_t (&a)[4], const ValueTile& values,
                                                          Output& out) {
#pragma unroll
        for (int t = 0; t < 4; ++t) ptx::mma_m16n8k16_f16(out[t], a, values[t][0], values[t][1], out[t]);
    }
    __device__ __forceinline__ static void multiply_rotary(const std::uint32_t (&a)[4], const ValueTile& values,
                                                           Output& out) {
#pragma unroll
        for (int t = 0; t < 4; ++t) ptx::mma_m16n8k16(out[t], a, values[t][0], values[t][1], out[t]);
    }
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t product(std::uint32_t a, std::uint32_t b) {
        return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b)));
    }
    __device__ __forceinline__ void load_codes(int tile, ValueTile& to) const {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const std::uint32_t first = load_shared_4(low_ + (16 * tile + e) * kCodePitch);
            const std::uint32_t second = load_shared_4(high_ + (16 * tile + e) * kCodePitch);
            const std::uint32_t pairs[2] = {__byte_perm(first, second, 0x5140), __byte_perm(first, second, 0x7362)};
#pragma unroll
            for (int t = 0; t < 4; ++t) to[t][e] = t % 2 == 0 ? low_codes(pairs[t / 2]) : high_codes(pairs[t / 2]);
        }
    }
    /// bf16, with weights of their own.
    __device__ __forceinline__ void load_rotary(int tile, ValueTile& to) const {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 first = load_shared_8(low_ + (16 * tile + e) * kTailPitch);
            const uint2 second = load_shared_8(high_ + (16 * tile + e) * kTailPitch);
            to[0][e] = __byte_perm(first.x, second.x, 0x5410);
            to[1][e] = __byte_perm(first.x, second.x, 0x7632);
            to[2][e] = __byte_perm(first.y, second.y, 0x5410);
            to[3][e] = __byte_perm(first.y, second.y, 0x7632);
        }
    }

    bool rotary_;
    std::uint32_t weights_, ratios_, low_, high_;
};

}  // namespace tokamak::mla::cuda::grid_decode
