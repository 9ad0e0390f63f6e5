// SPDX-License-Identifier: Apache-2.0
// What makes f16 values of fp8 rows: powers of rows by their scales, sixteen codes of a row and slab.
#pragma once

#include <cuda_fp16.h>

#include "mla/cuda/paired_codes/shape.cuh"

namespace tokamak::mla::cuda::paired_codes {

inline constexpr int kRotarySlab = kSlabs - 1;
inline constexpr int kRotaryByte = 448;

/// A number that is computed here and not kept in a register from where it was computed before.
[[nodiscard]] __device__ __forceinline__ int anew(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

/// Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
inline constexpr int kLeastEights = (kUnitExponent + 1 - 64) >> kPowerBits;
inline constexpr int kMostEights = (kUnitExponent + 1 + 64) >> kPowerBits;
[[nodiscard]] __device__ __forceinline__ int eights_of(int power) {
    return max(kLeastEights, min(kMostEights, (power + 7) >> kPowerBits));
}

/// Largest magnitude of eight bf16 values.
[[nodiscard]] __device__ __forceinline__ unsigned top_of_eight(const uint4& v) {
    const unsigned both =
        __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU), __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU));
    return max(both & 0xFFFFU, both >> 16);
}

/// Of seven scale bytes; 255 is infinity, for which no power is large enough.
[[nodiscard]] __device__ __forceinline__ int largest_scale(const uint2& scales) {
    const auto finite = [](unsigned two) {  // 255 to 0
        return two & ~(((two + 0x00010001U) >> 8 & 0x00010001U) * 0xFFU);
    };
    const unsigned both = __vmaxu2(__vmaxu2(finite(scales.x & 0x00FF00FFU), finite(scales.x >> 8 & 0x00FF00FFU)),
                                   __vmaxu2(finite(scales.y & 0x00FF00FFU), finite(scales.y >> 8 & 0x000000FFU)));
    return static_cast<int>(max(both & 0xFFFFU, both >> 16));
}

[[nodiscard]] __device__ __forceinline__ std::uint32_t scaled_codes(std::uint32_t four, bool upper, __half2 ratio) {
    std::uint32_t v;
    if (upper)
        asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, h;\n}" : "=r"(v) : "r"(four));
    else
        asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}" : "=r"(v) : "r"(four));
    const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&v), ratio);
    return *reinterpret_cast<const std::uint32_t*>(&product);
}

/// Four pairs of dimensions, one of each of four chunks of the tile.
__device__ __forceinline__ void store_words(std::uint32_t at, std::uint32_t first, std::uint32_t second,
                                            __half2 ratio) {
    const std::uint32_t four[4] = {scaled_codes(first, false, ratio), scaled_codes(first, true, ratio),
                                   scaled_codes(second, false, ratio), scaled_codes(second, true, ratio)};
    ptx::store_matrix_x4(at, four);
}

/// Sixteen codes of a slab of this lane's row, by a warp with eight rows. `at`: of the tile, for stmatrix.
__device__ __forceinline__ void store_codes(std::uint32_t at, const uint4& codes, int slab, const uint2& scales,
                                            float inverse) {
    // A scale byte as the exponent of a float; 255 is infinity.
    const std::uint32_t exponent = __byte_perm(slab < 4 ? scales.x : scales.y, 0, (slab % 4) << 12 | 0x0444) >> 1;
    const float factor = __uint_as_float(exponent) * inverse;
    const std::uint32_t pair = pack_f16(factor, factor);
    const __half2 ratio = *reinterpret_cast<const __half2*>(&pair);
    store_words(at, codes.x, codes.y, ratio);
    store_words(at ^ 64U, codes.z, codes.w, ratio);
}

}  // namespace tokamak::mla::cuda::paired_codes
