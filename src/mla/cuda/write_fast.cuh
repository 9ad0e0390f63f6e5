// SPDX-License-Identifier: Apache-2.0
// write_kv of aligned bf16 rows with power-of-two scales.
#pragma once

#include "mla/cuda/row_fast.cuh"

namespace tokamak::mla::cuda::fast {

inline constexpr std::uint32_t kInfinity16 = 0x7F80;  ///< bf16 magnitudes from here on are no numbers

/// Largest magnitude of eight bf16 values as bits, which compare like numbers; from kInfinity16 on if one is none.
__device__ __forceinline__ std::uint32_t largest_bits(uint4 v) {
    constexpr std::uint32_t magnitude = 0x7FFF7FFFU;
    const std::uint32_t pair =
        __vmaxu2(__vmaxu2(v.x & magnitude, v.y & magnitude), __vmaxu2(v.z & magnitude, v.w & magnitude));
    return max(pair & 0xFFFFU, pair >> 16);
}

/// The same over finite values only.
__device__ __noinline__ std::uint32_t largest_finite_bits(uint4 v) {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
    std::uint32_t largest = 0;
    for (int i = 0; i < codec::kChunk; ++i) {
        const std::uint32_t bits = words[i / 2] >> (i % 2 * 16) & 0x7FFFU;
        if (bits < kInfinity16) largest = max(largest, bits);
    }
    return largest;
}

/// e8m0 code of the scale for a group: the smallest power of two that is not below the largest magnitude (at least
/// 1e-4) over 448 = 1.75 * 2^8, from the bits alone.
__device__ __forceinline__ std::uint32_t scale_code(std::uint32_t largest16) {
    const std::uint32_t bits = max(largest16 << 16, 0x38D1B717U);
    return (bits >> 23) - 8 + ((bits & 0x7FFFFFU) > 0x600000U ? 1 : 0);
}

__device__ __forceinline__ std::uint32_t codes_of_pairs(std::uint32_t low, std::uint32_t high, float inverse) {
    const float2 first = {__uint_as_float(low << 16) * inverse, __uint_as_float(low & 0xFFFF0000U) * inverse};
    const float2 second = {__uint_as_float(high << 16) * inverse, __uint_as_float(high & 0xFFFF0000U) * inverse};
    return __nv_cvt_float2_to_fp8x2(first, __NV_SATFINITE, __NV_E4M3) |
           static_cast<std::uint32_t>(__nv_cvt_float2_to_fp8x2(second, __NV_SATFINITE, __NV_E4M3)) << 16;
}

/// The hardware's conversion drops the sign of a NaN, and so does a multiplication.
__device__ __noinline__ uint2 careful_codes(uint4 v, float inverse) {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
    std::uint32_t codes[2] = {0, 0};
    for (int i = 0; i < codec::kChunk; ++i) {
        const float value = codec::bf16_to_float(words[i / 2] >> (i % 2 * 16) & 0xFFFFU);
        codes[i / 4] |= codec::float_to_e4m3(isnan(value) ? value : value * inverse) << (i % 4 * 8);
    }
    return {codes[0], codes[1]};
}

/// Quantises a lane's chunk in a group of `Lanes` neighbours; gives the group's scale code.
template <int Lanes>
__device__ __forceinline__ std::uint32_t quantise(uint4 v, uint2& codes) {
    const std::uint32_t own = largest_bits(v);
    std::uint32_t largest = own < kInfinity16 ? own : largest_finite_bits(v);
#pragma unroll
    for (int step = 1; step < Lanes; step *= 2) largest = max(largest, __shfl_xor_sync(~0U, largest, step));
    const std::uint32_t code = scale_code(largest);
    const float inverse = __uint_as_float((254 - code) << 23);
    if (own < kInfinity16)
        codes = {codes_of_pairs(v.x, v.y, inverse), codes_of_pairs(v.z, v.w, inverse)};
    else
        codes = careful_codes(v, inverse);
    return code;
}

/// The scales of a row next to each other: four floats or eight bytes, out of the lanes that lead the groups.
template <KvFormat Format>
__device__ __forceinline__ void store_scales(std::uint8_t* scales, std::uint32_t first, std::uint32_t second,
                                             int lane) {
    if constexpr (Format == KvFormat::fp8_656) {
        const std::uint32_t low = __shfl_sync(~0U, first, lane % 2 * 16);
        const std::uint32_t high = __shfl_sync(~0U, second, lane % 2 * 16);
        if (lane < 4) reinterpret_cast<float*>(scales)[lane] = codec::kv_scale_to_float(lane < 2 ? low : high);
    } else {
        const std::uint32_t low = __shfl_sync(~0U, first, lane % 4 * 8);
        const std::uint32_t high = __shfl_sync(~0U, second, lane % 4 * 8);
        if (lane < 8) scales[lane] = static_cast<std::uint8_t>(lane < 4 ? low : (lane < 7 ? high : 0));
    }
}

template <KvFormat Format>
__global__ void __launch_bounds__(32 * kWarps) write_fp8_rows(const __grid_constant__ WriteParams p) {
    constexpr int kLanes = Format == KvFormat::fp8_656 ? 16 : 8;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kWarpRows;
    const std::int64_t tokens =
        p.num_tokens == nullptr ? p.tokens : min(p.tokens, static_cast<std::int64_t>(max(0, *p.num_tokens)));
    if (first >= tokens) return;
    const auto* const kv = static_cast<const std::uint8_t*>(p.kv);
    const auto source = [&](int row) { return kv + min(first + row, tokens - 1) * p.kv_stride * 2; };
    uint4 in[kWarpRows][2];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
        for (int h = 0; h < 2; ++h) in[r][h] = load16(source(r) + (h * 32 + lane) * 16);
    uint4 tail{};
    if constexpr (!kTailInLanes<Format>) tail = load16(source(lane / 8) + (64 + lane % 8) * 16);
    CacheRow own{};
    if (lane < kWarpRows && first + lane < tokens) {
        const std::int64_t at = (first + lane) * p.slot_stride;
        own = find_row(p.cache, p.wide_slots ? static_cast<const std::int64_t*>(p.slots)[at]
                                             : static_cast<const std::int32_t*>(p.slots)[at]);
    }
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
        const CacheRow row{from_lane(own.values, r), from_lane(own.scales, r)};
        if (row.values == nullptr) continue;
        uint2 codes[2];
        const std::uint32_t low = quantise<kLanes>(in[r][0], codes[0]);
        const std::uint32_t high = quantise<kLanes>(in[r][1], codes[1]);
        store8(row.values + lane * 8, codes[0]);
        if (!kTailInLanes<Format> || lane < kCodeChunks<Format> - 32)
            store8(row.values + (32 + lane) * 8, codes[1]);
        else
            store16(row.values + kTailByte<Format> + (32 + lane - kCodeChunks<Format>)*16, in[r][1]);
        store_scales<Format>(row.scales, low, high, lane);
    }
    if constexpr (!kTailInLanes<Format>) {
        std::uint8_t* const row = from_lane(own.values, lane / 8);
        if (row != nullptr) store16(row + kTailByte<Format> + lane % 8 * 16, tail);
    }
}

__global__ void __launch_bounds__(32 * kWarps) write_bf16_rows(const __grid_constant__ WriteParams p) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kWarpRows;
    const std::int64_t tokens =
        p.num_tokens == nullptr ? p.tokens : min(p.tokens, static_cast<std::int64_t>(max(0, *p.num_tokens)));
    if (first >= tokens) return;
    std::uint8_t* own = nullptr;
    if (lane < kWarpRows && first + lane < tokens) {
        const std::int64_t at = (first + lane) * p.slot_stride;
        own = find_row(p.cache, p.wide_slots ? static_cast<const std::int64_t*>(p.slots)[at]
                                             : static_cast<const std::int32_t*>(p.slots)[at])
                  .values;
    }
    const auto* const kv = static_cast<const std::uint8_t*>(p.kv);
    const int chunks = static_cast<int>(p.cache.dim) / codec::kChunk;
    for (int chunk = lane; chunk - lane < chunks; chunk += 32) {
        uint4 values[kWarpRows];
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r)
            if (chunk < chunks) values[r] = load16(kv + min(first + r, tokens - 1) * p.kv_stride * 2 + chunk * 16);
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) {
            std::uint8_t* const to = from_lane(own, r);
            if (to != nullptr && chunk < chunks) store16(to + chunk * 16, values[r]);
        }
    }
}

}  // namespace tokamak::mla::cuda::fast
