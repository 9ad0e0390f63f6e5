// SPDX-License-Identifier: Apache-2.0
// A token's logits, the rule that routes by them, and how scores are ordered.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;

__device__ __forceinline__ float sigmoid_of(float logit) { return __fdividef(1.0F, 1.0F + expf(-logit)); }
__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
}
/// Larger scores have larger keys, the two zeros the same; 0 is below the key of every number and of -inf.
__device__ __forceinline__ std::uint32_t key_of_score(float score) {
    const std::uint32_t bits = __float_as_uint(score + 0.0F);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float score_of_key(std::uint32_t key) {
    return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

/// What lane j has chosen as the j-th of a token's experts.
struct Choice {
    int expert;
    float weight;
};

/// A token's logits in memory and the rule that routes by them.
struct RouteRow {
    const void* logits;
    const float* bias;  ///< null: none
    DType dtype;
    int experts;
    int top_k;
    int groups;
    int top_groups;
    float factor;
    bool softmax;
    bool renormalize;

    __device__ RouteRow(const DecodeRoute& route, int expert_count, int choices, std::int64_t token)
        : bias(route.bias),
          dtype(route.logits.dtype),
          experts(expert_count),
          top_k(choices),
          groups(route.groups),
          top_groups(route.top_groups),
          factor(route.factor),
          softmax(route.softmax),
          renormalize(route.renormalize) {
        const std::int64_t bytes = dtype == DType::f32 ? 4 : 2;
        logits = static_cast<const std::uint8_t*>(route.logits.data) + token * route.logits.stride * bytes;
    }
    [[nodiscard]] __device__ __forceinline__ float value(std::uint32_t bits) const {
        const float half = __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
        const float other = __uint_as_float(bits << (dtype == DType::f32 ? 0 : 16));
        return dtype == DType::f16 ? half : other;
    }
    [[nodiscard]] __device__ __forceinline__ float logit(int expert) const {
        if (dtype == DType::f32) return static_cast<const float*>(logits)[expert];
        return value(static_cast<const std::uint16_t*>(logits)[expert]);
    }
};

}  // namespace tokamak::moe::cuda
