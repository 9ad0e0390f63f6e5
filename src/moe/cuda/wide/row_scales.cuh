// SPDX-License-Identifier: Apache-2.0
// Sums times the scales of their weight rows, where weights are converted: 256 scales in shared memory, strip by strip.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/multiply_tall.cuh"

namespace tokamak::moe::cuda {

/// Two strips from `first` on; a lane has rows g and g + 8 of its warp's 16.
template <int Eights>
__device__ __forceinline__ void scale_strip_sums(const float* scales, int first, const WideConsumer& me,
                                                 float (&sums)[2][Eights][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float* const own = scales + (min(first + i, kWideSlotStrips - 1) * 64 + me.slab * 16 + me.lane / 4);
        const float low = own[0];
        const float high = own[8];
#pragma unroll
        for (int n = 0; n < Eights; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][n][j] *= j < 2 ? low : high;
    }
}

/// Four strips, weight rows 2t and 2t + 1 of each eight.
__device__ __forceinline__ void scale_tall_sums(const float* scales, const WideConsumer& me, WideTallSums (&sums)[2]) {
    const std::uint32_t own = ptx::shared_address(scales) + static_cast<std::uint32_t>(me.lane) % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < 16; ++n) {
            const float2 two = load_shared_two(own + static_cast<std::uint32_t>(half * 512 + n * 32));
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[half][n][i] *= i % 2 == 0 ? two.x : two.y;
        }
}

}  // namespace tokamak::moe::cuda
