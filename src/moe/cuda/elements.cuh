// SPDX-License-Identifier: Apache-2.0
// Elements in memory: of a type known when the kernel is compiled, alone and in 16-byte vectors, and of run-time type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "tokamak/tensor.h"

namespace tokamak::moe::cuda {

/// How a type is stored: `Bits` of one element, and what it is worth.
template <DType kType>
struct Element;

template <>
struct Element<DType::bf16> {
    using Bits = std::uint16_t;
    static __device__ __forceinline__ float value(Bits bits) {
        return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
    }
    static __device__ __forceinline__ Bits bits(float value) {
        return __bfloat16_as_ushort(__float2bfloat16_rn(value));
    }
};

template <>
struct Element<DType::f16> {
    using Bits = std::uint16_t;
    static __device__ __forceinline__ float value(Bits bits) { return __half2float(__ushort_as_half(bits)); }
    static __device__ __forceinline__ Bits bits(float value) { return __half_as_ushort(__float2half_rn(value)); }
};

template <>
struct Element<DType::f32> {
    using Bits = float;
    static __device__ __forceinline__ float value(Bits bits) { return bits; }
    static __device__ __forceinline__ Bits bits(float value) { return value; }
};

/// kWidth elements that are loaded and stored as one, at an address that is a multiple of their size.
template <DType kType, int kWidth>
struct alignas(sizeof(typename Element<kType>::Bits) * kWidth) Elements {
    typename Element<kType>::Bits bits[kWidth];

    [[nodiscard]] __device__ __forceinline__ float value(int i) const { return Element<kType>::value(bits[i]); }
    __device__ __forceinline__ void set(int i, float value) { bits[i] = Element<kType>::bits(value); }
};

/// An element of run-time type.
__device__ __forceinline__ float load_element(const void* data, DType dtype, std::int64_t index) {
    if (dtype == DType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
    if (dtype == DType::f16) return __half2float(static_cast<const __half*>(data)[index]);
    return static_cast<const float*>(data)[index];
}
__device__ __forceinline__ void store_element(void* data, DType dtype, std::int64_t index, float value) {
    if (dtype == DType::bf16)
        static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
    else if (dtype == DType::f16)
        static_cast<__half*>(data)[index] = __float2half_rn(value);
    else
        static_cast<float*>(data)[index] = value;
}

/// An id of type i32 or i64.
__device__ __forceinline__ std::int64_t load_id(const void* ids, bool wide, std::int64_t index) {
    return wide ? static_cast<const std::int64_t*>(ids)[index] : static_cast<const std::int32_t*>(ids)[index];
}

/// The call's tokens, lowered by the count on the device if there is one.
__device__ __forceinline__ std::int64_t live_tokens(std::int64_t tokens, const std::int32_t* num_tokens) {
    if (num_tokens == nullptr) return tokens;
    const std::int64_t count = *num_tokens;
    return count < 0 ? 0 : (count < tokens ? count : tokens);
}

}  // namespace tokamak::moe::cuda
