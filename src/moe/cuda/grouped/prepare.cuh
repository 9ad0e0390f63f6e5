// SPDX-License-Identifier: Apache-2.0
// Rows in the form that the matrix instruction of a format wants (RowForm), made once before a phase, so that gathering
// them is a plain copy.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/grouped/shape.cuh"

namespace tokamak::moe::cuda {

/// Where rows come from.
struct RowSource {
    const void* data = nullptr;
    bool f32 = false;  ///< or 16 bits
    std::int64_t stride = 0;
    int routes_per_row = 1;  ///< top_k: rows of tokens; 1: rows of routes
    int cols = 0;
    bool vectors = true;  ///< rows are aligned to 16 bytes
    DecodeRows weights;   ///< present: a row is multiplied by its route's weight
    std::int64_t first_token = 0;
    int top_k = 1;
    const float* scales = nullptr;  ///< of prepared rows: [rows, chunks of 128 columns]

    /// Routes that share a prepared row: a weighted row is a route's own.
    [[nodiscard]] __device__ int prepared_per() const { return weights.data != nullptr ? 1 : routes_per_row; }
    [[nodiscard]] __device__ std::int64_t begin(int route) const {
        return (first_token + route / routes_per_row) * stride;
    }
    /// Eight columns from element `at` on, of which the row has `left` (any number): zeros after them. Past the L1:
    /// other SMs wrote the intermediate just now. Callers do not clamp `left`: see docs/kernels/compiler.md.
    __device__ __forceinline__ void load(float (&values)[8], std::int64_t at, int left) const {
        if (vectors && left >= 8) return load_vectors(values, at);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            values[i] = i >= left ? 0.0F
                        : f32      ? __ldcg(static_cast<const float*>(data) + at + i)
                                   : __bfloat162float(__ldcg(static_cast<const __nv_bfloat16*>(data) + at + i));
    }
    /// The row times its routing weight.
    __device__ __forceinline__ void weigh(float (&values)[8], int route, bool rounded) const {
        if (weights.data == nullptr) return;
        const float weight = load_element(weights, first_token + route / top_k, route % top_k);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            values[i] *= weight;
            if (rounded) values[i] = __bfloat162float(__float2bfloat16_rn(values[i]));
        }
    }

  private:
    __device__ __forceinline__ void load_vectors(float (&values)[8], std::int64_t at) const {
        if (f32) {
            const auto* const fours = reinterpret_cast<const float4*>(static_cast<const float*>(data) + at);
            const float4 low = __ldcg(fours);
            const float4 high = __ldcg(fours + 1);
            const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = all[i];
            return;
        }
        const uint4 eight = __ldcg(reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(data) + at));
        const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = __uint_as_float(words[i] << 16);
            values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
        }
    }
};

__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}

inline constexpr int kPreparedGroup = 128;  ///< columns that share a scale

/// Eight columns as the two halves of their part of 16: see RowForm.
struct PreparedEight {
    uint2 first;
    uint2 second;
};

__device__ __forceinline__ PreparedEight move_columns(const float (&v)[8]) {
    constexpr float scale = kLargeActivations;
    return {{bf16_pair(v[1] * scale, v[3] * scale), bf16_pair(v[5] * scale, v[7] * scale)},
            {bf16_pair(v[0] * scale, v[2] * scale), bf16_pair(v[4] * scale, v[6] * scale)}};
}

__device__ __forceinline__ PreparedEight quantize_columns(const float (&v)[8], const tokamak::cuda::E4m3Scale& scale) {
    PreparedEight eight;
    tokamak::cuda::e4m3_to_f16(tokamak::cuda::e4m3_quantized(scale, {v[0], v[1], v[2], v[3]}), eight.first.x,
                               eight.second.x);
    tokamak::cuda::e4m3_to_f16(tokamak::cuda::e4m3_quantized(scale, {v[4], v[5], v[6], v[7]}), eight.first.y,
                               eight.second.y);
    return eight;
}

__device__ __forceinline__ void store_halves(std::uint16_t* group, int vector, const PreparedEight& eight) {
    std::uint16_t* const to = group + vector / 2 * 16 + vector % 2 * 4;
    *reinterpret_cast<uint2*>(to) = eight.first;
    *reinterpret_cast<uint2*>(to + 8) = eight.second;
}

/// Over the eight columns of each of 16 neighbouring threads.
__device__ __forceinline__ float largest_of_group(const float (&values)[8]) {
    const unsigned neighbours = 0xFFFFU << (threadIdx.x % 32 / 16 * 16);
    float largest = 0.0F;
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = tokamak::cuda::larger_magnitude(largest, values[i]);
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(neighbours, largest, distance));
    return largest;
}

/// Makes the rows of routes [0, routes) of `source` into `to`, [rows, groups of 128 columns], and, where
/// they are quantised, their scales. By all threads of the grid; 16 neighbours share a group.
template <RowForm Form>
__device__ __forceinline__ void prepare_rows(const RowSource& source, int routes, std::uint16_t* to, float* scales) {
    const int groups = (source.cols + kPreparedGroup - 1) / kPreparedGroup;
    const std::int64_t total = static_cast<std::int64_t>(routes / source.prepared_per()) * groups * 16;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += step) {
        const std::int64_t group = at / 16;
        const int row = static_cast<int>(group / groups);
        const int col = static_cast<int>(group - static_cast<std::int64_t>(row) * groups) * kPreparedGroup +
                        static_cast<int>(at % 16) * 8;
        const int route = row * source.prepared_per();
        float values[8];
        source.load(values, source.begin(route) + col, source.cols - col);
        source.weigh(values, route, Form != RowForm::quantized);
        std::uint16_t* const part = to + group * kPreparedGroup;
        const int vector = static_cast<int>(at % 16);
        if constexpr (Form == RowForm::quantized) {
            const auto scale = tokamak::cuda::E4m3Scale::of(largest_of_group(values));
            store_halves(part, vector, quantize_columns(values, scale));
            if (vector == 0) scales[group] = scale.scale;
        } else {
            store_halves(part, vector, move_columns(values));
        }
    }
}

}  // namespace tokamak::moe::cuda
