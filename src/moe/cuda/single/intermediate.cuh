// SPDX-License-Identifier: Apache-2.0
// Published gate/up sums become the intermediate rows that a CTA's down tiles need.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/decode_elements.cuh"
#include "moe/cuda/single/sums.cuh"

namespace tokamak::moe::cuda {

/// A block of 128 intermediate columns: four strips of gate/up rows, a column of each for a lane. Whatever group of
/// columns a format has, it lies in one block.
inline constexpr int kBlockStrips = 4;
inline constexpr int kBlockCols = 128;

/// Where the segments of a strip are published: CTAs after the first one begin with this strip.
struct StripSource {
    const float* first = nullptr;
    const float* rest = nullptr;
    int ctas = 0;

    StripSource() = default;
    template <bool Down>
    __device__ StripSource(const Phase<Down>& phase, int strip, int pitch) {
        const int cta = phase.by_cta(strip * phase.tiles());
        ctas = phase.by_cta((strip + 1) * phase.tiles() - 1) - cta + 1;
        first = phase.segment(cta, strip);
        rest = phase.args.published + cta * pitch + (Down ? phase.args.gate_up_segments * kSegmentSums : 0);
    }
    [[nodiscard]] __device__ const float* segment(int i, int pitch) const { return i == 0 ? first : rest + i * pitch; }
};

__device__ __forceinline__ int cta_pitch(const SingleArgs& args) {
    return (args.gate_up_segments + args.down_segments) * kSegmentSums;
}

/// Gate and up of the lane's columns, the segments of each strip in the order of their columns.
__device__ __forceinline__ void load_block(const Phase<false>& phase, int route, int block, int lane,
                                           float2 (&sums)[kBlockStrips]) {
    constexpr int most = 3;  // segments of a strip that are asked for at once
    const int pitch = cta_pitch(phase.args);
    StripSource sources[kBlockStrips];
    int longest = 0;
#pragma unroll
    for (int s = 0; s < kBlockStrips; ++s) {
        sums[s] = {0.0F, 0.0F};
        const int own = block * kBlockStrips + s;
        if (own < phase.matrix().strips) sources[s] = {phase, route * phase.matrix().strips + own, pitch};
        longest = max(longest, sources[s].ctas);
    }
#pragma unroll 1
    for (int base = 0; base < longest; base += most) {
        float2 parts[kBlockStrips][most];
        bool missing = true;
        while (missing) {
            missing = false;
#pragma unroll
            for (int s = 0; s < kBlockStrips; ++s)
#pragma unroll
                for (int i = 0; i < most; ++i) {
                    parts[s][i] = {0.0F, 0.0F};
                    if (base + i < sources[s].ctas)
                        parts[s][i] = load_published_pair(sources[s].segment(base + i, pitch) + lane * 2);
                }
#pragma unroll
            for (int s = 0; s < kBlockStrips; ++s)
#pragma unroll
                for (int i = 0; i < most; ++i)
                    missing = missing || !is_published(parts[s][i].x) || !is_published(parts[s][i].y);
        }
#pragma unroll
        for (int s = 0; s < kBlockStrips; ++s)
#pragma unroll
            for (int i = 0; i < most; ++i) {
                sums[s].x += parts[s][i].x;
                sums[s].y += parts[s][i].y;
            }
    }
    __syncwarp();
}

/// Column of a row -> where its 16 bits are, counted in columns: odd ones of 16 first.
__device__ __forceinline__ int interleaved_col(int col) {
    return col / 16 * 16 + (col % 2 == 0 ? 8 : 0) + col % 16 / 8 * 4 + col % 8 / 2;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
    return value;
}

/// A block's columns as e4m3 codes with their scale. `values`: of columns lane, lane + 32, ...
__device__ __forceinline__ void store_quantized_block(std::uint8_t* row, float* scales, int block, int lane,
                                                      const float (&values)[kBlockStrips]) {
    float largest = 0.0F;
#pragma unroll
    for (const float value : values) largest = tokamak::cuda::larger_magnitude(largest, value);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
    const auto scale = tokamak::cuda::E4m3Scale::of(largest);
#pragma unroll
    for (int s = 0; s < kBlockStrips; ++s)
        row[block * kBlockCols + s * 32 + lane] =
            static_cast<std::uint8_t>(tokamak::cuda::e4m3_codes(scale.divide(values[s]), 0.0F) & 0xFFU);
    if (lane == 0) scales[block * tokamak::cuda::kTileTokens] = scale.scale;
}

/// The same as bf16, scaled so that subnormal weights give normal products, with the sums of groups where needed.
template <class Tile>
__device__ __forceinline__ void store_block(std::uint8_t* row, float* groups, int padded_cols, int block, int lane,
                                            const float (&values)[kBlockStrips]) {
    using tokamak::cuda::TokenForm;
    using Decode = typename Tile::Decode;
    float sums[kBlockStrips];
#pragma unroll
    for (int s = 0; s < kBlockStrips; ++s) {
        const __nv_bfloat16 rounded = __float2bfloat16_rn(values[s]);
        const int col = block * kBlockCols + s * 32 + lane;
        if (col < padded_cols) {
            const int place = Tile::kForm == TokenForm::interleaved ? interleaved_col(col) : col;
            reinterpret_cast<__nv_bfloat16*>(row)[place] =
                __hmul(rounded, __float2bfloat16_rn(Decode::kActivationScale));
        }
        if constexpr (Decode::kHasZeroPoint) sums[s] = warp_sum(__bfloat162float(rounded));
    }
    if constexpr (Decode::kHasZeroPoint) {
        constexpr int strips = Tile::kGroup / 32;
        if (lane != 0) return;
#pragma unroll
        for (int s = 0; s < kBlockStrips; s += strips) {
            float sum = 0.0F;
#pragma unroll
            for (int i = 0; i < strips; ++i) sum += sums[s + i];
            const int group = (block * kBlockStrips + s) / strips;
            if (group * Tile::kGroup < padded_cols) groups[group * tokamak::cuda::kTileTokens] = sum;
        }
    }
}

/// The rows of the routes that the CTA's down tiles belong to.
template <class Tile>
__device__ __forceinline__ void load_intermediate(const Phase<false>& gate_up, const Phase<true>& down,
                                                  std::uint8_t* shared, int warp, int warps, int lane) {
    const SingleArgs& args = gate_up.args;
    if (down.cta_end() <= down.cta_first()) return;
    const int first_route = down.route_of(down.strip_of(down.cta_first()));
    const int routes = down.route_of(down.strip_of(down.cta_end() - 1)) - first_route + 1;
    const int blocks = (args.down.padded_cols + kBlockCols - 1) / kBlockCols;
    int route = 0;
    int block = warp;
    while (true) {
        for (; block >= blocks; block -= blocks) ++route;
        if (route >= routes) return;
        float2 sums[kBlockStrips];
        load_block(gate_up, first_route + route, block, lane, sums);
        float values[kBlockStrips];
#pragma unroll
        for (int s = 0; s < kBlockStrips; ++s)
            values[s] = block * kBlockCols + s * 32 + lane < args.down.cols
                            ? activate(args.activation, sums[s].x, sums[s].y)
                            : 0.0F;
        std::uint8_t* const row = shared + args.parts.rows + route * args.parts.row_pitch;
        float* const groups = reinterpret_cast<float*>(shared + args.parts.row_groups) + route * args.parts.group_pitch;
        if constexpr (Tile::kForm == tokamak::cuda::TokenForm::quantized)
            store_quantized_block(row, groups, block, lane, values);
        else
            store_block<Tile>(row, groups, args.down.padded_cols, block, lane, values);
        block += warps;
    }
}

}  // namespace tokamak::moe::cuda
