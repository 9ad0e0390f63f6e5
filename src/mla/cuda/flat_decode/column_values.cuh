// SPDX-License-Identifier: Apache-2.0
// Output of 24 heads: dimensions x heads, 32 dimensions for a warp.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Product f has, as its rows g and g + 8, dimensions 4 g + 2 f and the next one of the warp's.
template <int Heads>
using ColumnOutput = float[2][Heads / 8][4];

template <int Rows, int Heads>
__device__ __forceinline__ void multiply_columns(std::uint32_t base, int warp, int lane, ColumnOutput<Heads>& out) {
    using L = Layout<576, Rows, Heads>;
    constexpr int kPitch = DirectRow<576>::kCodePitch;
    const int c = lane % 4;
    const std::uint32_t weights = base + L::kWeights + warp / 4 * L::kWeightPitch + lane * 4;
    const std::uint32_t codes = base + L::kCodes + warp * 32 + lane / 4 * 4;
    const std::uint32_t low = codes + row_of_column(2 * c) * kPitch;
    const std::uint32_t high = codes + row_of_column(2 * c + 1) * kPitch;
#pragma unroll
    for (int tile = 0; tile < Rows / 16; ++tile) {
        std::uint32_t pairs[2][2];  // of rows: two dimensions each
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const std::uint32_t first = load_shared_4(low + (16 * tile + e) * kPitch);
            const std::uint32_t second = load_shared_4(high + (16 * tile + e) * kPitch);
            pairs[e][0] = __byte_perm(first, second, 0x5140);
            pairs[e][1] = __byte_perm(first, second, 0x7362);
        }
        const std::uint32_t a[2][4] = {
            {low_codes(pairs[0][0]), high_codes(pairs[0][0]), low_codes(pairs[1][0]), high_codes(pairs[1][0])},
            {low_codes(pairs[0][1]), high_codes(pairs[0][1]), low_codes(pairs[1][1]), high_codes(pairs[1][1])}};
#pragma unroll
        for (int h = 0; h < Heads / 8; ++h) {
            const std::uint32_t at = weights + tile * (32 * Heads) + h * 128;
            const std::uint32_t b[2] = {load_shared_4(at), load_shared_4(at + 16 * Heads)};
#pragma unroll
            for (int f = 0; f < 2; ++f) ptx::mma_m16n8k16_f16(out[f][h], a[f], b[0], b[1], out[f][h]);
        }
    }
}

}  // namespace tokamak::mla::cuda::flat_decode::direct
