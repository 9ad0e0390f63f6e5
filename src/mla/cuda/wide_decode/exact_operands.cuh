// SPDX-License-Identifier: Apache-2.0
// Operands of the exact scores' f16 products, made of e4m3 codes in shared memory.
#pragma once

#include "mla/cuda/wide_decode/queries.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Addresses of this rare path, if made from what the compiler knows already, would be kept in registers through the
/// loop over blocks.
template <typename T>
[[nodiscard]] __device__ __forceinline__ T exact_anew(T v) {
    asm volatile("" : "+r"(v));
    return v;
}
[[nodiscard]] __device__ __forceinline__ std::uint32_t exact_load(std::uint32_t at) {
    std::uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
    return word;
}
[[nodiscard]] __device__ __forceinline__ std::uint32_t first_half(std::uint32_t four) {
    return bits_of(halves_of(four & 0xFFFFU));
}
[[nodiscard]] __device__ __forceinline__ std::uint32_t second_half(std::uint32_t four) {
    return bits_of(halves_of(four >> 16));
}
[[nodiscard]] __device__ __forceinline__ std::uint32_t sum_of_halves(std::uint32_t a, std::uint32_t b) {
    return bits_of(__hadd2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b)));
}

}  // namespace tokamak::mla::cuda::wide_decode
