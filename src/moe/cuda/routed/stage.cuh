// SPDX-License-Identifier: Apache-2.0
// A stage of a warp's ring: one packed tile of weights (docs/formats.md) and the activations that meet it.
#pragma once

#include <cstdint>

#include "cuda/ptx/mma.cuh"
#include "moe/cuda/routed/routed_args.h"

namespace tokamak::moe::cuda::routed {

namespace ptx = tokamak::cuda::ptx;

/// The tile; 16 bytes with the strip's scales where they are apart; then activations, for each 64 columns
/// [kTileRows, 128 bytes] under the 128-byte swizzle.
template <class Weights>
struct StageLayout {
    static constexpr int kTileRows = Weights::kMostBlocks * 8;  ///< routes
    static constexpr int kScalesOffset = Weights::kTileBytes;
    static constexpr int kRowsOffset = Weights::kTileBytes + (Weights::kStripScales ? 128 : 0);
    static constexpr int kRowBlockBytes = kTileRows * 128;
    static constexpr int kBytes = kRowsOffset + Weights::kTileCols / 64 * kRowBlockBytes;

    /// Byte of 16-byte chunk `chunk` (of eight columns) of a row.
    __device__ __forceinline__ static int chunk_offset(int row, int chunk) {
        return kRowsOffset + chunk / 8 * kRowBlockBytes + row * 128 + ((chunk % 8 ^ row % 8) << 4);
    }
};

/// B fragments of 32 columns: b[n] for routes 8n to 8n + 7, two registers for each step of 16 columns.
template <class Stage, int Blocks>
__device__ __forceinline__ void load_rows(std::uint32_t (&b)[Blocks][4], const std::uint8_t* stage, int block, int pair,
                                          int lane) {
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
        ptx::load_matrix_x4(
            b[n], ptx::shared_address(stage + Stage::chunk_offset(n * 8 + lane % 8, block * 8 + pair * 4 + lane / 8)));
}

}  // namespace tokamak::moe::cuda::routed
