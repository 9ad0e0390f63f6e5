// SPDX-License-Identifier: Apache-2.0
// The published intermediate becomes the rows that a CTA's down tiles need.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/single/sums.cuh"

namespace tokamak::moe::cuda {

/// A warp takes 128 columns at once, four for each lane: whatever group of columns a format has lies in them.
inline constexpr int kBlockCols = 128;

/// Four columns as e4m3 codes, and the scale of the block.
__device__ __forceinline__ void store_quantized_block(std::uint8_t* row, float* scales, int block, int lane,
                                                      const float (&values)[4]) {
    float largest = 0.0F;
#pragma unroll
    for (const float value : values) largest = tokamak::cuda::larger_magnitude(largest, value);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
    const auto scale = tokamak::cuda::E4m3Scale::of(largest);
    *reinterpret_cast<std::uint32_t*>(row + block * kBlockCols + lane * 4) =
        tokamak::cuda::e4m3_quantized(scale, values);
    if (lane == 0) scales[block * tokamak::cuda::kTileTokens] = scale.scale;
}

/// Four columns as bf16, scaled so that subnormal weights give normal products, and the sums of groups where needed.
template <class Tile>
__device__ __forceinline__ void store_block(std::uint8_t* row, float* groups, int block, int lane,
                                            const float (&values)[4]) {
    using Decode = typename Tile::Decode;
    __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(values[0], values[1]),
                               __floats2bfloat162_rn(values[2], values[3])};
    if constexpr (Decode::kHasZeroPoint) {
        constexpr int lanes = Tile::kGroup / 4;  // that share a group
        float sum = (__low2float(pairs[0]) + __high2float(pairs[0])) + (__low2float(pairs[1]) + __high2float(pairs[1]));
#pragma unroll
        for (int distance = 1; distance < lanes; distance *= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
        if (lane % lanes == 0) groups[(block * 32 + lane) / lanes * tokamak::cuda::kTileTokens] = sum;
    }
    const __nv_bfloat162 factor = __float2bfloat162_rn(Decode::kActivationScale);
    uint2 words;
    *reinterpret_cast<__nv_bfloat162*>(&words.x) = __hmul2(pairs[0], factor);
    *reinterpret_cast<__nv_bfloat162*>(&words.y) = __hmul2(pairs[1], factor);
    if constexpr (Tile::kForm == tokamak::cuda::TokenForm::interleaved) {
        // Of 16 columns the odd ones first.
        std::uint8_t* const to = row + block * kBlockCols * 2 + lane / 4 * 32 + lane % 4 * 4;
        *reinterpret_cast<std::uint32_t*>(to) = __byte_perm(words.x, words.y, 0x7632);
        *reinterpret_cast<std::uint32_t*>(to + 16) = __byte_perm(words.x, words.y, 0x5410);
    } else {
        *reinterpret_cast<uint2*>(row + block * kBlockCols * 2 + lane * 8) = words;
    }
}

/// The rows of the routes that the CTA's down tiles belong to.
template <class Tile>
__device__ __forceinline__ void load_intermediate(const Phase<true>& down, std::uint8_t* shared, int warp, int warps,
                                                  int lane) {
    constexpr int batch = 4;  // blocks that are asked for at once
    const SingleArgs& args = down.args;
    if (down.cta_end() <= down.cta_first()) return;
    const int first_route = down.route_of(down.strip_of(down.cta_first()));
    const int routes = down.route_of(down.strip_of(down.cta_end() - 1)) - first_route + 1;
    const int blocks = (args.down.padded_cols + kBlockCols - 1) / kBlockCols;
    const int columns = args.gate_up.strips * 32;  // of a route
    int route = 0;
    int block = warp;
    while (true) {
        for (; block >= blocks; block -= blocks) ++route;
        if (route >= routes) return;
        float4 loaded[batch];
        int route_of[batch];
        int block_of[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            for (; block >= blocks; block -= blocks) ++route;
            route_of[i] = route;
            block_of[i] = block;
            block += warps;
        }
        bool missing = true;
        while (missing) {
            missing = false;
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                loaded[i] = {0.0F, 0.0F, 0.0F, 0.0F};
                const int col = block_of[i] * kBlockCols + lane * 4;
                if (route_of[i] < routes && col < columns)
                    loaded[i] = load_published_four(args.activated + (first_route + route_of[i]) * columns + col);
            }
#pragma unroll
            for (int i = 0; i < batch; ++i)
                missing = missing || !is_published(loaded[i].x) || !is_published(loaded[i].y) ||
                          !is_published(loaded[i].z) || !is_published(loaded[i].w);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            if (route_of[i] >= routes) continue;
            const float values[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
            std::uint8_t* const row = shared + args.parts.rows + route_of[i] * args.parts.row_pitch;
            float* const groups =
                reinterpret_cast<float*>(shared + args.parts.row_groups) + route_of[i] * args.parts.group_pitch;
            if constexpr (Tile::kForm == tokamak::cuda::TokenForm::quantized)
                store_quantized_block(row, groups, block_of[i], lane, values);
            else
                store_block<Tile>(row, groups, block_of[i], lane, values);
        }
    }
}

}  // namespace tokamak::moe::cuda
