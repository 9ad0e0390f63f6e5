// SPDX-License-Identifier: Apache-2.0
// What the grouped kernel asks of a weight format:
//   kStageBlocks, kTileBlocks   blocks of 64 columns in a stage and in a packed tile
//   kTileBytes, kStripStageBytes
//   kForm                       how rows lie in a stage
//   kStripScales                strips end with two scales for each tile; they multiply the products of a stage
//   kSumScale                   true units of a sum
//   kGlobalScales               strips end with two f32 scales for their sums: rows g and g + 8 of each 16
//   kLoadsAhead                 by mma.sync as multiply_ahead.cuh says; two strips and more than kMmaEights times 8
//                               rows by wgmma (multiply_warpgroup.cuh)
//   kHalfStages                 of a lone last tile half a stage is multiplied; the test costs the loop up to 2%
//   kAnnounces                  row tiles tell when their rows of the intermediate are there, in every shape
//   kFirstStripCycles, kNextStripCycles   what a warpgroup computes for its first strip of a stage, and for another
// and, unless both operands are multiplied from shared memory (RowForm::quantized):
//   Slab                        a warp's 16 rows x 64 columns: load(strip, block, slab, lane), fragment(a, step) and,
//                               for wgmma with operands in registers (multiply_converted.cuh), convert(a)
//   multiply(c, a, b0, b1)
#pragma once

#include <cstdint>

#include "cuda/ptx/mma.cuh"

namespace tokamak::moe::cuda {

/// How the values of a row lie in a stage.
enum class RowForm : std::uint8_t {
    natural,    ///< bf16
    moved,      ///< bf16 times 2^100; of every 16 columns first the odd, then the even ones
    quantized,  ///< e4m3 codes of 8 bits, in order
};

/// Weights that are subnormal bf16 patterns need larger activations, so that the products are normal numbers.
inline constexpr float kLargeActivations = 0x1p100F;

struct PlainProducts {
    __device__ __forceinline__ static void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                                    std::uint32_t b1) {
        tokamak::cuda::ptx::mma_m16n8k16(c, a, b0, b1, c);
    }
};

}  // namespace tokamak::moe::cuda
