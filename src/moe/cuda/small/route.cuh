// SPDX-License-Identifier: Apache-2.0
// What both route kernels share: the scores of one row by one block. They are computed in double and rounded to f32
// once, as the CPU oracle has them, so that ties fall alike; Hopper's double rate makes that cheap.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/cuda/elements.cuh"
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

/// e^x for x <= 0, to about 2^-50 and without a branch. Below -200 it stays at e^-200, which is 0 in f32 as the truth
/// is. NaN passes.
__device__ __forceinline__ double exp_nonpositive(double x) {
    constexpr double kSteps = 0x1.8p52;  // adding it rounds to an integer, in the low bits
    const double clamped = x < -200.0 ? -200.0 : x;
    const double shifted = fma(clamped, 1.4426950408889634, kSteps);
    const double steps = shifted - kSteps;
    double r = fma(steps, -6.93147180369123816490e-01, clamped);
    r = fma(steps, -1.90821492927058770002e-10, r);
    // Even and odd terms of the series side by side: half the chain.
    const double s = r * r;
    double even = 1.0 / 479001600.0;
    double odd = 1.0 / 6227020800.0;
    constexpr double kEven[] = {1.0 / 3628800.0, 1.0 / 40320.0, 1.0 / 720.0, 1.0 / 24.0, 0.5, 1.0};
    constexpr double kOdd[] = {1.0 / 39916800.0, 1.0 / 362880.0, 1.0 / 5040.0, 1.0 / 120.0, 1.0 / 6.0, 1.0};
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        even = fma(even, s, kEven[i]);
        odd = fma(odd, s, kOdd[i]);
    }
    const double power = fma(odd, r, even);
    const double scaled =
        __hiloint2double(__double2hiint(power) + (__double2loint(shifted) << 20), __double2loint(power));
    return isnan(x) ? x : scaled;
}

/// 1 / x for 1 <= x <= 2.
__device__ __forceinline__ double reciprocal(double x) {
    double r = static_cast<double>(__frcp_rn(static_cast<float>(x)));
    r = fma(r, fma(-x, r, 1.0), r);
    return fma(r, fma(-x, r, 1.0), r);
}

__device__ __forceinline__ double sigmoid(double logit) {
    const double power = exp_nonpositive(-fabs(logit));
    const double above = reciprocal(1.0 + power);
    return logit < 0.0 ? power * above : above;
}

template <class Value>
__device__ __forceinline__ Value warp_sum(Value value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, step);
    return value;
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

/// What a row with a score that is not a number gets.
__device__ __forceinline__ void store_nan_row(const RouteParams& p, std::int64_t row) {
    for (int slot = static_cast<int>(threadIdx.x); slot < p.top_k; slot += static_cast<int>(blockDim.x))
        store_choice(p, row, slot, __int_as_float(0x7FC00000), slot);
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

/// Shared memory of a row's scores.
struct Scores {
    double* values;         ///< [experts]: what a chosen expert weighs before renormalisation
    std::uint32_t* keys;    ///< [experts]: of what is chosen by
    double* sums;           ///< [warps]
    std::uint32_t* maxima;  ///< [warps]

    __device__ Scores(void* memory, int experts, int warps)
        : values(static_cast<double*>(memory)),
          sums(values + experts),
          maxima(reinterpret_cast<std::uint32_t*>(sums + warps)) {
        keys = maxima + warps;
    }
};
/// Bytes that Scores takes.
constexpr int score_bytes(int experts, int warps) { return (experts + warps) * 12; }

__device__ __forceinline__ double block_sum(const Scores& s, double value) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += s.sums[w];
    return sum;
}

__device__ __forceinline__ float block_max(const Scores& s, float value) {
    const std::uint32_t key = __reduce_max_sync(0xFFFFFFFFU, key_of(value));
    if (threadIdx.x % 32 == 0) s.maxima[threadIdx.x / 32] = key;
    __syncthreads();
    std::uint32_t largest = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) largest = max(largest, s.maxima[w]);
    return value_of_key(largest);
}

__device__ __forceinline__ void softmax_values(const RouteParams& p, std::int64_t row, const Scores& s) {
    const int threads = static_cast<int>(blockDim.x);
    float largest = -INFINITY;
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += threads) {
        const float logit = load_element(p.logits, p.logits_dtype, row * p.logits_stride + e);
        s.values[e] = logit;
        largest = fmaxf(largest, logit);
    }
    const double shift = block_max(s, largest);
    double sum = 0.0;
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += threads) {
        const double power = exp_nonpositive(s.values[e] - shift);
        s.values[e] = power;
        sum += power;
    }
    const double scale = 1.0 / block_sum(s, sum);
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += threads) s.values[e] *= scale;
}

/// Fills values and keys, by all threads; says whether a score is not a number. A barrier of the block is behind it.
__device__ __forceinline__ bool score_row(const RouteParams& p, std::int64_t row, const Scores& s) {
    if (p.softmax) softmax_values(p, row, s);
    bool nan = false;
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += static_cast<int>(blockDim.x)) {
        double value = 0.0;
        if (p.softmax)
            value = s.values[e];
        else
            value = sigmoid(load_element(p.logits, p.logits_dtype, row * p.logits_stride + e));
        const auto choice = static_cast<float>(value + (p.bias != nullptr ? static_cast<double>(p.bias[e]) : 0.0));
        s.values[e] = value;
        s.keys[e] = key_of(choice);
        nan = nan || isnan(choice);
    }
    return __syncthreads_or(nan ? 1 : 0) != 0;
}

cudaError_t prepare_route_sort();
cudaError_t launch_route_sort(const RouteParams& params, int max_ctas, cudaStream_t stream);

}  // namespace tokamak::moe::cuda
