// SPDX-License-Identifier: Apache-2.0
// Codes and scales of fp8 rows to 16-bit values.
#pragma once

#include <cuda_fp16.h>

#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Two e4m3 codes as f16, which holds all of them.
__device__ __forceinline__ __half2 halves_of(std::uint32_t two) {
    std::uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(two)));
    return *reinterpret_cast<__half2*>(&halves);
}
__device__ __forceinline__ std::uint32_t bits_of(__half2 v) { return *reinterpret_cast<std::uint32_t*>(&v); }

/// Eight codes times the ratio `high` in f16; `Odd`: times high + low, rounded once.
template <bool Odd>
__device__ __forceinline__ uint4 scale_codes(std::uint32_t first, std::uint32_t second, __half2 high, __half2 low) {
    const __half2 codes[4] = {halves_of(first & 0xFFFFU), halves_of(first >> 16), halves_of(second & 0xFFFFU),
                              halves_of(second >> 16)};
    __half2 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = __hmul2(codes[i], high);
    if constexpr (Odd) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = __hfma2(codes[i], low, v[i]);
    }
    return {bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])};
}

/// What rounding took away in scale_codes, which gave `rounded`.
__device__ __forceinline__ uint4 rests_of(std::uint32_t first, std::uint32_t second, __half2 high, __half2 low,
                                          const uint4& rounded) {
    const auto rest = [high, low](std::uint32_t two, std::uint32_t v) {
        const __half2 codes = halves_of(two);
        return bits_of(__hfma2(codes, low, __hsub2(__hmul2(codes, high), *reinterpret_cast<const __half2*>(&v))));
    };
    return {rest(first & 0xFFFFU, rounded.x), rest(first >> 16, rounded.y), rest(second & 0xFFFFU, rounded.z),
            rest(second >> 16, rounded.w)};
}

/// Eight codes times a scale in bf16: exact for powers of two, rounded once otherwise.
__device__ __forceinline__ uint4 round_codes(std::uint32_t first, std::uint32_t second, float scale) {
    const auto pair = [scale](std::uint32_t two) {
        const float2 v = __half22float2(halves_of(two));
        return pack_bf16(v.x * scale, v.y * scale);
    };
    return {pair(first & 0xFFFFU), pair(first >> 16), pair(second & 0xFFFFU), pair(second >> 16)};
}

/// 2^(code - 127): 2^-127 is denormal; 255 becomes infinity.
__device__ __forceinline__ float power_scale(std::uint32_t code) {
    return __uint_as_float(code == 0 ? 0x00400000U : code << 23);
}
/// Whether one of a row's seven exponents is 255, which is NaN: then no score of the row is a number. Asked once for a
/// row, so that power_scale need not ask for every product.
__device__ __forceinline__ bool has_nan_scale(const uint2& scales) {
    const auto has_255 = [](std::uint32_t v) { return ((~v - 0x01010101U) & v & 0x80808080U) != 0; };
    return has_255(scales.x) || has_255(scales.y & 0x00FFFFFFU);
}
inline constexpr std::uint32_t kNanBits = 0x7FC00000U;

template <int Bytes>
__device__ __forceinline__ void load_unaligned(const std::uint8_t* from, std::uint32_t (&words)[Bytes / 4]) {
#pragma unroll
    for (int w = 0; w < Bytes / 4; ++w)
        words[w] = from[4 * w] | from[4 * w + 1] << 8 | from[4 * w + 2] << 16 |
                   static_cast<std::uint32_t>(from[4 * w + 3]) << 24;
}

/// 16-byte chunk c of dimensions [64 j, 64 j + 64) of a row anywhere in memory, as bf16.
template <int Dim>
__device__ __forceinline__ uint4 read_anywhere(const Row& row, int j, int c) {
    using Fp8 = Fp8Row<Dim>;
    std::uint32_t words[4];
    if (row.scales == nullptr || j == Fp8::kCodeSlabs) {
        load_unaligned<16>(row.values + (row.scales == nullptr ? j * 128 : Fp8::kRotaryByte) + c * 16, words);
        return {words[0], words[1], words[2], words[3]};
    }
    std::uint32_t codes[2];
    load_unaligned<8>(row.values + j * 64 + c * 8, codes);
    float scale;
    if constexpr (Dim == 576) {
        std::uint32_t bits[1];
        load_unaligned<4>(row.scales + j / 2 * 4, bits);
        scale = __uint_as_float(bits[0]);
    } else {
        scale = power_scale(row.scales[j]);
    }
    return round_codes(codes[0], codes[1], scale);
}

/// A row's factors: values are kept divided by 2^(exponent - 127), chosen so that f16 holds the largest of them well.
/// What codes are multiplied by is kept as eight f16 numbers. 512: the ratios of the seven slabs, powers of two. 576:
/// those of the four pairs of slabs, each cut so short that its product with a code is exact, then what they lack.
template <int Dim>
struct RowScales {
    int exponent;
    uint4 ratios;
    bool odd = false;  ///< a scale is no power of two; a matter of the scales alone, so that all readers agree

    /// `raw`: four floats, or seven exponents in the first two words. `rotary_top`: largest magnitude as bf16 bits.
    __device__ __forceinline__ RowScales(const uint4& raw, unsigned rotary_top) {
        unsigned top = 0;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            const unsigned magnitude = __float_as_uint(scale_of(raw, g)) & 0x7FFFFFFFU;
            top = max(top, magnitude < 0x7F800000U ? magnitude : 0U);
        }
        // Codes reach 448: 2^5 times that, times a mantissa below 2, is below 2^15. So are rotary values of 2^14.
        const int of_rotary = rotary_top >= 0x7F80U ? 0 : static_cast<int>(rotary_top >> 7) - 14;
        exponent = max(kLeast, min(kMost, max(static_cast<int>(top >> 23) - 5, of_rotary)));
        const float inverse = power_of(2 * kUnitExponent - exponent);
        float halves[8] = {};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            const float ratio = scale_of(raw, g) * inverse;
            halves[g] = ratio;
            if constexpr (Dim == 576) {
                odd = odd || (__float_as_uint(scale_of(raw, g)) & 0x007FFFFFU) != 0;
                halves[g] = __uint_as_float(__float_as_uint(ratio) & 0xFFFE0000U);
                halves[4 + g] = ratio - halves[g];
            }
        }
        ratios = {pack_f16(halves[0], halves[1]), pack_f16(halves[2], halves[3]), pack_f16(halves[4], halves[5]),
                  pack_f16(halves[6], halves[7])};
    }

  private:
    static constexpr int kGroups = Dim == 576 ? 4 : 7;
    /// Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    static constexpr int kLeast = kUnitExponent - 60;
    static constexpr int kMost = kUnitExponent + 60;

    __device__ __forceinline__ static float scale_of(const uint4& raw, int g) {
        const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        if constexpr (Dim == 576) return __uint_as_float(words[g]);
        return power_scale(words[g / 4] >> (g % 4 * 8) & 0xFFU);
    }
};

/// Number g of eight f16 numbers, twice.
__device__ __forceinline__ __half2 twice(const uint4& halves, int g) {
    const std::uint32_t words[4] = {halves.x, halves.y, halves.z, halves.w};
    const __half2 pair = *reinterpret_cast<const __half2*>(&words[g / 2]);
    return g % 2 == 0 ? __low2half2(pair) : __high2half2(pair);
}

}  // namespace tokamak::mla::cuda::sparse_decode
