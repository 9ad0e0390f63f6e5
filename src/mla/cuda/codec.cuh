// SPDX-License-Identifier: Apache-2.0
// Single values between f32 and the stored types, bit for bit as formats/scalar.h has them on the host, and chunks of
// eight of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "tokamak/tensor.h"

namespace tokamak::mla::cuda::codec {

__device__ __forceinline__ float bf16_to_float(std::uint32_t bits) { return __uint_as_float(bits << 16); }
__device__ __forceinline__ float f16_to_float(std::uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

/// The hardware's conversions lose the sign and the payload of a NaN.
__device__ __forceinline__ std::uint32_t float_to_bf16(float value) {
    const std::uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return (bits >> 16) | 0x0040U;
    return (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
}
__device__ __forceinline__ std::uint32_t float_to_f16(float value) {
    const std::uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return ((bits >> 16) & 0x8000U) | 0x7E00U | ((bits >> 13) & 0x3FFU);
    return __half_as_ushort(__float2half_rn(value));
}

__device__ __forceinline__ float e4m3_to_float(std::uint32_t code) {
    const std::uint32_t sign = (code & 0x80U) << 24;
    const std::uint32_t magnitude = code & 0x7FU;
    if (magnitude == 0x7FU) return __uint_as_float(sign | 0x7FC00000U);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 20) * 0x1p120F));
}
__device__ __forceinline__ std::uint32_t float_to_e4m3(float value) {
    const std::uint32_t bits = __float_as_uint(value);
    const std::uint32_t sign = (bits >> 24) & 0x80U;
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return sign | 0x7FU;
    if (magnitude >= 0x43E00000U) return sign | 0x7EU;
    // Below 2^-6: adding 2^14 rounds to the subnormal step in the low mantissa bits.
    if (magnitude < 0x3C800000U) return sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0F) - 0x46800000U);
    return sign | ((magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U) - 0x3C000000U) >> 20);
}

/// 2^(code - 127); 255 is infinity.
__device__ __forceinline__ float kv_scale_to_float(std::uint32_t code) {
    return __uint_as_float(code == 0 ? 0x00400000U : code << 23);
}
/// The same, but 255 is "this group is zero".
__device__ __forceinline__ float mxfp4_scale_to_float(std::uint32_t code) {
    return code == 255 ? 0.0F : kv_scale_to_float(code);
}

__device__ __forceinline__ float e2m1_to_float(std::uint32_t code) {
    const std::uint32_t m = code & 7U;
    const float magnitude = m < 4 ? 0.5F * static_cast<float>(m) : (m == 7 ? 6.0F : static_cast<float>(m - 2));
    return (code & 8U) != 0 ? -magnitude : magnitude;
}
/// Ties to the even code; NaN becomes 0 with its sign.
__device__ __forceinline__ std::uint32_t float_to_e2m1(float value) {
    const float a = fabsf(value);
    const int code = (a > 0.25F) + (a >= 0.75F) + (a > 1.25F) + (a >= 1.75F) + (a > 2.5F) + (a >= 3.5F) + (a > 5.0F);
    return static_cast<std::uint32_t>(code) | (__float_as_uint(value) >> 31 << 3);
}

inline constexpr int kChunk = 8;

/// Bytes from memory of any alignment; `vector` says that the address is a multiple of the size.
template <class Vector>
__device__ __forceinline__ Vector load_bytes(const std::uint8_t* from, bool vector) {
    if (vector) return *reinterpret_cast<const Vector*>(from);
    Vector value;
    for (unsigned i = 0; i < sizeof(Vector); ++i) reinterpret_cast<std::uint8_t*>(&value)[i] = from[i];
    return value;
}
template <class Vector>
__device__ __forceinline__ void store_bytes(std::uint8_t* to, Vector value, bool vector) {
    if (vector) {
        *reinterpret_cast<Vector*>(to) = value;
        return;
    }
    for (unsigned i = 0; i < sizeof(Vector); ++i) to[i] = reinterpret_cast<const std::uint8_t*>(&value)[i];
}

__device__ __forceinline__ void unpack16(uint4 words, DType type, float (&v)[kChunk]) {
    const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
        const std::uint32_t bits = w[i / 2] >> (i % 2 * 16) & 0xFFFFU;
        v[i] = type == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
    }
}
__device__ __forceinline__ uint4 pack16(const float (&v)[kChunk], DType type) {
    std::uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::uint32_t low = type == DType::bf16 ? float_to_bf16(v[2 * i]) : float_to_f16(v[2 * i]);
        const std::uint32_t high = type == DType::bf16 ? float_to_bf16(v[2 * i + 1]) : float_to_f16(v[2 * i + 1]);
        w[i] = low | high << 16;
    }
    return {w[0], w[1], w[2], w[3]};
}

/// Up to eight elements of type bf16, f16 or f32 at `from`; missing ones are 0.
__device__ __forceinline__ void load_chunk(const std::uint8_t* from, DType type, int count, bool vector,
                                           float (&v)[kChunk]) {
    if (vector && count >= kChunk) {
        if (type == DType::f32) {
            const float4 low = reinterpret_cast<const float4*>(from)[0];
            const float4 high = reinterpret_cast<const float4*>(from)[1];
            v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
            v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
        } else {
            unpack16(*reinterpret_cast<const uint4*>(from), type, v);
        }
        return;
    }
    for (int i = 0; i < kChunk; ++i) {
        if (i >= count)
            v[i] = 0.0F;
        else if (type == DType::f32)
            v[i] = load_bytes<float>(from + i * 4, false);
        else
            v[i] = type == DType::bf16 ? bf16_to_float(load_bytes<std::uint16_t>(from + i * 2, false))
                                       : f16_to_float(load_bytes<std::uint16_t>(from + i * 2, false));
    }
}

__device__ __forceinline__ void store_chunk(std::uint8_t* to, DType type, int count, bool vector,
                                            const float (&v)[kChunk]) {
    if (vector && count >= kChunk) {
        if (type == DType::f32) {
            reinterpret_cast<float4*>(to)[0] = {v[0], v[1], v[2], v[3]};
            reinterpret_cast<float4*>(to)[1] = {v[4], v[5], v[6], v[7]};
        } else {
            *reinterpret_cast<uint4*>(to) = pack16(v, type);
        }
        return;
    }
    for (int i = 0; i < min(count, kChunk); ++i) {
        if (type == DType::f32)
            store_bytes(to + i * 4, v[i], false);
        else
            store_bytes(to + i * 2,
                        static_cast<std::uint16_t>(type == DType::bf16 ? float_to_bf16(v[i]) : float_to_f16(v[i])),
                        false);
    }
}

}  // namespace tokamak::mla::cuda::codec
