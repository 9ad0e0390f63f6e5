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

__device__ __forceinline__ void multiply_values(std::uint32_t base, int warp, int lane, Output& out) {
    using L = Layout;
    const int g = lane / 4;
    const int c = lane % 4;
    const std::uint32_t weights = base + L::kTurns + warp / 4 * kWeightPitch + lane * 8;
    const std::uint32_t codes = base + L::kCodes + warp * 32 + g * 4;
    const std::uint32_t low = codes + row_of_column(2 * c) * kCodePitch;
    const std::uint32_t high = codes + row_of_column(2 * c + 1) * kCodePitch;
#pragma unroll
    for (int tile = 0; tile < kRows / 16; ++tile) {
        std::uint32_t a[4];
        std::uint32_t pairs[2][2];  // of rows: two dimensions each
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 w = load_shared_8(weights + tile * 512 + e * 256);
            a[2 * e] = w.x;
            a[2 * e + 1] = w.y;
            const std::uint32_t first = load_shared_4(low + (16 * tile + e) * kCodePitch);
            const std::uint32_t second = load_shared_4(high + (16 * tile + e) * kCodePitch);
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

}  // namespace tokamak::mla::cuda::flat_decode::direct
