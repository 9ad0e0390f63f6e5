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
    const void* data = nullptr;  ///< 16 bits each
    std::int64_t stride = 0;
    int routes_per_row = 1;  ///< top_k: rows of tokens; 1: rows of routes
    Divisor by_routes;       ///< that
    int cols = 0;
    bool vectors = true;  ///< rows are aligned to 16 bytes
    DecodeRows weights;   ///< present: a row is multiplied by its route's weight
    std::int64_t first_token = 0;
    int top_k = 1;
    const float* scales = nullptr;  ///< of prepared rows: [rows, chunks of 128 columns]

    /// Routes that share a prepared row: a weighted row is a route's own.
    [[nodiscard]] __device__ int prepared_per() const { return weights.data != nullptr ? 1 : routes_per_row; }
    [[nodiscard]] __device__ std::int64_t begin(int route) const {
        return (first_token + quotient(route, by_routes)) * stride;
    }
    /// Eight columns from element `at` on, of which the row has `left` (any number): zeros after them. Callers do not
    /// clamp `left`: see docs/kernels/compiler.md.
    [[nodiscard]] __device__ __forceinline__ uint4 load_bits(std::int64_t at, int left) const {
        const auto* const from = static_cast<const std::uint16_t*>(data) + at;
        if (vectors && left >= 8) return __ldcg(reinterpret_cast<const uint4*>(from));
        std::uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            words[i] = (2 * i < left ? __ldcg(from + 2 * i) : 0U) |
                       (2 * i + 1 < left ? static_cast<std::uint32_t>(__ldcg(from + 2 * i + 1)) << 16 : 0U);
        return {words[0], words[1], words[2], words[3]};
    }
    __device__ __forceinline__ static void unpack(float (&values)[8], const uint4& bits) {
        const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = __uint_as_float(words[i] << 16);
            values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
        }
    }
    __device__ __forceinline__ void load(float (&values)[8], std::int64_t at, int left) const {
        unpack(values, load_bits(at, left));
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

/// Codes of eight columns, in order.
__device__ __forceinline__ uint2 quantize_columns(const float (&v)[8], const tokamak::cuda::E4m3Scale& scale) {
    return {tokamak::cuda::e4m3_quantized(scale, {v[0], v[1], v[2], v[3]}),
            tokamak::cuda::e4m3_quantized(scale, {v[4], v[5], v[6], v[7]})};
}

/// Place of a column in a row of RowForm::moved.
__device__ __forceinline__ int moved_place(int col) { return col / 16 * 16 + (col % 2 == 0 ? 8 : 0) + col % 16 / 2; }

/// Zeros behind the columns of rows that are written in their form, up to whole groups.
__device__ __forceinline__ void clear_padding(std::uint16_t* rows, int count, int cols, int thread, int threads) {
    const int padded = (cols + kPreparedGroup - 1) / kPreparedGroup * kPreparedGroup;
    if (padded == cols) return;
    const std::int64_t total = static_cast<std::int64_t>(count) * (padded - cols);
    for (std::int64_t at = thread; at < total; at += threads) {
        const std::int64_t row = at / (padded - cols);
        rows[row * padded + moved_place(cols + static_cast<int>(at - row * (padded - cols)))] = 0;
    }
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

template <RowForm Form>
__device__ __forceinline__ void prepare_eight(const float (&values)[8], std::int64_t group, std::uint16_t* to,
                                              float* scales) {
    const int vector = static_cast<int>(threadIdx.x % 16);
    if constexpr (Form == RowForm::quantized) {
        const auto scale = tokamak::cuda::E4m3Scale::of(largest_of_group(values));
        reinterpret_cast<uint2*>(to)[group * 16 + vector] = quantize_columns(values, scale);
        if (vector == 0) scales[group] = scale.scale;
    } else {
        store_halves(to + group * kPreparedGroup, vector, move_columns(values));
    }
}

/// Makes the rows of routes [0, routes) of `source` into `to`, [rows, groups of 128 columns] of 16 or 8 bits, and,
/// where they are quantised, their scales. By all threads of the grid; 16 neighbours share a group.
template <RowForm Form>
__device__ __forceinline__ void prepare_rows(const RowSource& source, int routes, std::uint16_t* to, float* scales) {
    constexpr int at_once = 4;  // loads that are on their way together
    const int per = source.prepared_per();
    const int groups = (source.cols + kPreparedGroup - 1) / kPreparedGroup;
    const std::int64_t total = static_cast<std::int64_t>(routes / per) * groups;
    const int step = static_cast<int>(gridDim.x * (blockDim.x / 16));
    for (std::int64_t begin = blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16; begin < total;
         begin += at_once * step) {
        uint4 bits[at_once] = {};
        int rows[at_once];
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
            const std::int64_t group = begin + i * step;
            rows[i] = static_cast<int>(group / groups);
            const int col = static_cast<int>(group - static_cast<std::int64_t>(rows[i]) * groups) * kPreparedGroup +
                            static_cast<int>(threadIdx.x % 16) * 8;
            if (group < total) bits[i] = source.load_bits(source.begin(rows[i] * per) + col, source.cols - col);
        }
#pragma unroll
        for (int i = 0; i < at_once; ++i) {
            if (begin + i * step >= total) break;
            float values[8];
            RowSource::unpack(values, bits[i]);
            source.weigh(values, rows[i] * per, Form != RowForm::quantized);
            prepare_eight<Form>(values, begin + i * step, to, scales);
        }
    }
}

}  // namespace tokamak::moe::cuda
