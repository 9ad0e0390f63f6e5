// SPDX-License-Identifier: Apache-2.0
// One stage of a unit: a warp multiplies its slab of 16 rows of each of its strips with the stage's rows, by
// mma.m16n8k16. The four warps of a warpgroup hold the four slabs of a strip.
#pragma once

#include <cstdint>

#include "cuda/ptx/mma.cuh"
#include "moe/cuda/grouped/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Place of a consumer warp.
struct Consumer {
    int warpgroup;
    int slab;
    int lane;

    __device__ explicit Consumer(int warp)
        : warpgroup(warp / 4), slab(warp % 4), lane(static_cast<int>(threadIdx.x) % 32) {}
};

/// B fragments of 32 columns: b[n] for rows 8n to 8n + 7, two registers for each step of 16 columns.
template <int Blocks>
__device__ __forceinline__ void load_rows_fragment(std::uint32_t (&b)[Blocks][4], std::uint32_t rows, int pair,
                                                   int lane) {
    const std::uint32_t row = static_cast<std::uint32_t>(lane % 8);
    const std::uint32_t chunk = (static_cast<std::uint32_t>(pair * 4 + lane / 8) ^ row) << 4;
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
        ptx::load_matrix_x4(b[n], rows + (static_cast<std::uint32_t>(n) * 8 + row) * 128 + chunk);
}

/// What a warp holds of a block of 64 columns of one strip before it multiplies.
template <class Weights>
struct SlabBlock {
    std::uint32_t words[4];
    typename Weights::ScaleSet scales[Weights::kScaleSets];

    __device__ __forceinline__ void load(const std::uint8_t* strip, int block, const Consumer& me) {
        const uint4 four = Weights::codes(strip, block, me.slab, me.lane);
        words[0] = four.x;
        words[1] = four.y;
        words[2] = four.z;
        words[3] = four.w;
        Weights::scales(strip, block, me.slab, me.lane, scales);
    }
};

/// sums[i][n] += the slab of the warp's i-th strip times rows 8n to 8n + 7, over `Count` blocks of 64 columns.
template <class Shape, int Count, int Strips, int Blocks>
__device__ __forceinline__ void multiply_stage(const std::uint8_t* stage, const Consumer& me,
                                               float (&sums)[Strips][Blocks][4]) {
    using Weights = typename Shape::Weights;
    constexpr int steps_of_set = 4 / Weights::kScaleSets;
    const std::uint8_t* const strips = stage + me.warpgroup * Weights::kStripStageBytes;
    const std::uint32_t rows = ptx::shared_address(stage + Shape::kRowsOffset);
    SlabBlock<Weights> slabs[Count][Strips];
#pragma unroll
    for (int block = 0; block < Count; ++block)
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            slabs[block][i].load(strips + i * Shape::kWarpgroups * Weights::kStripStageBytes, block, me);
#pragma unroll
    for (int pair = 0; pair < Count * 2; ++pair) {
        const int block = pair / 2;
        std::uint32_t b[Blocks][4];
        load_rows_fragment(b, rows + block * Shape::kRowBlockBytes, pair % 2, me.lane);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < Strips; ++i) {
                const int step = pair % 2 * 2 + half;
                const SlabBlock<Weights>& slab = slabs[block][i];
                std::uint32_t a[4];
                Weights::fragment(a, slab.words[step], slab.scales[step / steps_of_set]);
#pragma unroll
                for (int n = 0; n < Blocks; ++n)
                    ptx::mma_m16n8k16(sums[i][n], a, b[n][half * 2], b[n][half * 2 + 1], sums[i][n]);
            }
    }
}

}  // namespace tokamak::moe::cuda
