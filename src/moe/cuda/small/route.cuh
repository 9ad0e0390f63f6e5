// SPDX-License-Identifier: Apache-2.0
// What both route kernels share. Scores are computed in double and rounded to f32 once, as the CPU oracle has them, so
// that ties fall alike; Hopper's double rate makes that cheap.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/cuda/small/elements.cuh"
#include "moe/cuda/small/kernels.h"

namespace tokamak::moe::cuda {

/// Larger values have larger keys; 0 is below the key of every number and of -inf.
__device__ __forceinline__ std::uint32_t key_of(float value) {
    const std::uint32_t bits = __float_as_uint(value);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float value_of_key(std::uint32_t key) {
    return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

__device__ __forceinline__ float load_logit(const RouteParams& p, std::int64_t row, int expert) {
    return load_element_as(p.logits_dtype, p.logits, row * p.logits_stride + expert);
}

__device__ __forceinline__ double sigmoid(float logit) { return 1.0 / (1.0 + exp(-static_cast<double>(logit))); }

/// What an expert is chosen by in the sigmoid method.
__device__ __forceinline__ float sigmoid_choice(const RouteParams& p, float logit, int expert) {
    const double bias = p.bias != nullptr ? static_cast<double>(p.bias[expert]) : 0.0;
    return static_cast<float>(sigmoid(logit) + bias);
}

/// What a chosen expert weighs before renormalisation. The key holds the softmax method's probability.
__device__ __forceinline__ float chosen_weight(const RouteParams& p, std::int64_t row, int expert, std::uint32_t key) {
    if (p.softmax) return value_of_key(key);
    return static_cast<float>(sigmoid(load_logit(p, row, expert)));
}

__device__ __forceinline__ void store_choice(const RouteParams& p, std::int64_t row, int slot, float weight, int id) {
    const std::int64_t at = row * p.weights_stride + slot;
    if (p.weights_dtype == DType::bf16)
        static_cast<std::uint16_t*>(p.weights)[at] = Element<DType::bf16>::bits(weight);
    else
        static_cast<float*>(p.weights)[at] = weight;
    const std::int64_t index = row * p.ids_stride + slot;
    if (p.wide_ids)
        static_cast<std::int64_t*>(p.ids)[index] = id;
    else
        static_cast<std::int32_t*>(p.ids)[index] = id;
}

/// `sum` is that of the chosen weights.
__device__ __forceinline__ float final_weight(const RouteParams& p, float weight, double sum) {
    if (!p.softmax) sum += static_cast<double>(1e-20F);
    double value = weight;
    if (p.renormalize) value /= sum;
    return static_cast<float>(value * static_cast<double>(p.factor));
}

/// Two best values of a group, to be added.
struct TwoBest {
    float best = -INFINITY;
    float second = -INFINITY;

    __device__ __forceinline__ void add(float value) {
        second = fmaxf(second, fminf(best, value));
        best = fmaxf(best, value);
    }
    [[nodiscard]] __device__ __forceinline__ float worth() const { return best + second; }
};

cudaError_t prepare_route_block();
cudaError_t launch_route_block(const RouteParams& params, int max_ctas, cudaStream_t stream);

}  // namespace tokamak::moe::cuda
