// SPDX-License-Identifier: Apache-2.0
// Output of the direct kernel: heads x dimensions, 32 of these for a warp. Bytes of two rows become the two halves of
// an operand's register.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/exchange.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Product t has, as its column g, dimension 4 g + t of the warp's. So a lane's columns, over all products, are eight
/// neighbouring dimensions.
using Output = float[4][4];

/// Codes: bytes of two rows side by side, two dimensions in each register.
template <int Dim, int Rows>
__device__ __forceinline__ void multiply_codes(std::uint32_t base, int warp, int lane, Output& out) {
    using L = Layout<Dim, Rows, 16>;
    constexpr int kPitch = DirectRow<Dim>::kCodePitch;
    const int c = lane % 4;
    const int version = warp * DirectRow<Dim>::kVersions / kDirectWarps;
    const std::uint32_t weights = base + L::kWeights + version * L::kWeightPitch + lane * 8;
    const std::uint32_t codes = base + L::kCodes + warp * 32 + lane / 4 * 4;
    const std::uint32_t low = codes + row_of_column(2 * c) * kPitch;
    const std::uint32_t high = codes + row_of_column(2 * c + 1) * kPitch;
#pragma unroll 8
    for (int tile = 0; tile < Rows / 16; ++tile) {
        std::uint32_t a[4];
        std::uint32_t pairs[2][2];  // of rows: two dimensions each
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 w = load_shared_8(weights + tile * 512 + e * 256);
            a[2 * e] = w.x;
            a[2 * e + 1] = w.y;
            const std::uint32_t first = load_shared_4(low + (16 * tile + e) * kPitch);
            const std::uint32_t second = load_shared_4(high + (16 * tile + e) * kPitch);
            pairs[e][0] = __byte_perm(first, second, 0x5140);
            pairs[e][1] = __byte_perm(first, second, 0x7362);
        }
#pragma unroll
        for (int t = 0; t < 4; ++t) {
            const auto operand = [&](int e) {
                return t % 2 == 0 ? low_codes(pairs[e][t / 2]) : high_codes(pairs[e][t / 2]);
            };
            ptx::mma_m16n8k16_f16(out[t], a, operand(0), operand(1), out[t]);
        }
    }
}

/// Rotary values of rows of 512, bf16, with weights of their own; by the last two warps.
template <int Rows>
__device__ __forceinline__ void multiply_rotary(std::uint32_t base, int warp, int lane, Output& out) {
    using L = Layout<512, Rows, 16>;
    const int c = lane % 4;
    const std::uint32_t weights = base + L::kWeights + 7 * L::kWeightPitch + lane * 8;
    const std::uint32_t values = base + L::kTails + kRotaryInTail + warp % 2 * 64 + lane / 4 * 8;
    const std::uint32_t low = values + row_of_column(2 * c) * kTailPitch;
    const std::uint32_t high = values + row_of_column(2 * c + 1) * kTailPitch;
#pragma unroll 4
    for (int tile = 0; tile < Rows / 16; ++tile) {
        std::uint32_t a[4];
        std::uint32_t operands[4][2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 w = load_shared_8(weights + tile * 512 + e * 256);
            a[2 * e] = w.x;
            a[2 * e + 1] = w.y;
            const uint2 first = load_shared_8(low + (16 * tile + e) * kTailPitch);
            const uint2 second = load_shared_8(high + (16 * tile + e) * kTailPitch);
            operands[0][e] = __byte_perm(first.x, second.x, 0x5410);
            operands[1][e] = __byte_perm(first.x, second.x, 0x7632);
            operands[2][e] = __byte_perm(first.y, second.y, 0x5410);
            operands[3][e] = __byte_perm(first.y, second.y, 0x7632);
        }
#pragma unroll
        for (int t = 0; t < 4; ++t) ptx::mma_m16n8k16(out[t], a, operands[t][0], operands[t][1], out[t]);
    }
}

template <int Dim, int Rows>
__device__ __forceinline__ void multiply_values(std::uint32_t base, int warp, int lane, Output& out) {
    if constexpr (DirectRow<Dim>::kRotaryValues) {
        if (warp >= DirectRow<Dim>::kCodes / 32) {
            multiply_rotary<Rows>(base, warp, lane, out);
            return;
        }
    }
    multiply_codes<Dim, Rows>(base, warp, lane, out);
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
