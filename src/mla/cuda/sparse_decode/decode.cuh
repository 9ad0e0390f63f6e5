// SPDX-License-Identifier: Apache-2.0
// Codes and scales of fp8 rows to bf16.
#pragma once

#include <cuda_fp16.h>

#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Eight e4m3 codes times a scale as bf16: exact for scales that are powers of two, rounded once otherwise.
__device__ __forceinline__ uint4 decode_codes(uint2 codes, float scale) {
    const auto pair = [scale](std::uint32_t two) {
        std::uint32_t halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(two)));
        const float2 v = __half22float2(*reinterpret_cast<__half2*>(&halves));
        return pack_bf16(v.x * scale, v.y * scale);
    };
    return {pair(codes.x & 0xFFFFU), pair(codes.x >> 16), pair(codes.y & 0xFFFFU), pair(codes.y >> 16)};
}

/// 2^(code - 127): 2^-127 is denormal; 255 becomes infinity.
__device__ __forceinline__ float power_scale(std::uint32_t code) {
    return __uint_as_float(code == 0 ? 0x00400000U : code << 23);
}

/// Scale of slab j from a row's scales in shared memory: four floats, or seven exponents.
template <int Dim>
__device__ __forceinline__ float load_scale(std::uint32_t scales, int j) {
    std::uint32_t bits;
    if constexpr (Dim == 576) {
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(scales + j / 2 * 4) : "memory");
        return __uint_as_float(bits);
    } else {
        asm volatile("ld.shared.u8 %0, [%1];" : "=r"(bits) : "r"(scales + j) : "memory");
        return power_scale(bits);
    }
}

template <int Bytes>
__device__ __forceinline__ void load_unaligned(const std::uint8_t* from, std::uint32_t (&words)[Bytes / 4]) {
#pragma unroll
    for (int w = 0; w < Bytes / 4; ++w)
        words[w] = from[4 * w] | from[4 * w + 1] << 8 | from[4 * w + 2] << 16 |
                   static_cast<std::uint32_t>(from[4 * w + 3]) << 24;
}

/// 16-byte chunk c of slab j of a row anywhere in memory, as bf16.
template <int Dim>
__device__ __forceinline__ uint4 read_anywhere(const Row& row, int j, int c) {
    using Fp8 = Fp8Row<Dim>;
    std::uint32_t words[4];
    if (row.scales == nullptr || j == Fp8::kCodeSlabs) {
        const int gap = Dim == 576 ? Fp8::kScaleBytes : 0;
        load_unaligned<16>(row.values + (row.scales == nullptr ? j * 128 : gap + j * 64) + c * 16, words);
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
    return decode_codes({codes[0], codes[1]}, scale);
}

}  // namespace tokamak::mla::cuda::sparse_decode
