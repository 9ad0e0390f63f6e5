// SPDX-License-Identifier: Apache-2.0
// Weights in 64-row tiles of 128 swizzled bytes. With bf16 activations they become A fragments: bf16 as they are, e4m3
// as bf16 patterns. ldmatrix gives a lane four neighbouring bytes of every 16 of a row, which fixes the order of
// columns in a step; the rows of e4m3 weights are stored in that order (RowForm). Quantised activations meet them as
// they lie.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/grouped/weights.cuh"

namespace tokamak::moe::cuda {

/// Registers of `Loads` ldmatrix, each 16 rows of 32 bytes: rows 0 to 7 and 8 to 15 of the first 16 bytes, then of the
/// second.
template <int Loads>
struct SwizzledSlab {
    std::uint32_t words[Loads][4];

    __device__ __forceinline__ void load_from(const std::uint8_t* tile, int first, int slab, int lane) {
        const std::uint32_t row =
            tokamak::cuda::ptx::shared_address(tile) + static_cast<std::uint32_t>(slab * 16 + lane % 16) * 128;
#pragma unroll
        for (int i = 0; i < Loads; ++i)
            tokamak::cuda::ptx::load_matrix_x4(
                words[i], row + ((static_cast<std::uint32_t>((first + i) * 2 + lane / 16) ^ (lane % 8)) << 4));
    }
};

struct Bf16Weights : PlainProducts {
    static constexpr int kStageBlocks = 1;
    static constexpr int kTileBlocks = 1;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr RowForm kForm = RowForm::natural;
    static constexpr bool kStripScales = false;
    static constexpr bool kGlobalScales = false;
    static constexpr bool kLoadsAhead = false;
    static constexpr bool kHalfStages = false;
    static constexpr bool kAnnounces = false;
    static constexpr float kSumScale = 1.0F;
    static constexpr int kFirstStripCycles = 400;
    static constexpr int kNextStripCycles = 200;

    struct Slab : SwizzledSlab<4> {
        __device__ __forceinline__ void load(const std::uint8_t* strip, int, int slab, int lane) {
            load_from(strip, 0, slab, lane);
        }
        __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int step) const {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = words[step][i];
        }
    };
};

/// Geometry of e4m3 tiles: 128 columns, half of them in a block.
struct Fp8Tiles {
    static constexpr int kStageBlocks = 2;
    static constexpr int kTileBlocks = 2;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr bool kStripScales = true;
    static constexpr bool kGlobalScales = false;
    static constexpr bool kLoadsAhead = false;
    static constexpr bool kHalfStages = false;
    static constexpr bool kAnnounces = false;
    static constexpr int kFirstStripCycles = 700;
    static constexpr int kNextStripCycles = 400;
};

/// e4m3 weights, bf16 activations.
struct Fp8Weights : PlainProducts, Fp8Tiles {
    static constexpr RowForm kForm = RowForm::moved;
    static constexpr float kSumScale = 0x1p20F;

    struct Slab : SwizzledSlab<2> {
        __device__ __forceinline__ void load(const std::uint8_t* strip, int block, int slab, int lane) {
            load_from(strip, block * 2, slab, lane);
        }
        __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int step) const {
            const auto low = tokamak::cuda::e4m3_moved(words[step / 2][step % 2 * 2]);
            const auto high = tokamak::cuda::e4m3_moved(words[step / 2][step % 2 * 2 + 1]);
            a[0] = low.odd;
            a[1] = high.odd;
            a[2] = low.even;
            a[3] = high.even;
        }
    };
};

/// e4m3 weights and activations, multiplied where they lie (multiply_e4m3.cuh).
struct Fp8QuantizedWeights : Fp8Tiles {
    static constexpr RowForm kForm = RowForm::quantized;
    static constexpr float kSumScale = 1.0F;
};

}  // namespace tokamak::moe::cuda
