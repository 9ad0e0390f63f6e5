// SPDX-License-Identifier: Apache-2.0
// What the wide kernel asks of a weight format:
//   kStageBlocks, kTileBlocks   blocks of 64 columns in a stage and in a packed tile
//   kTileBytes, kStripStageBytes
//   kFromShared                 a tile is an operand as it lies in shared memory; otherwise
//   Slab                        a warp's 16 rows x 64 columns: load(strip, block, slab, lane), fragment(a, step)
//   kQuantized                  rows are e4m3 with a scale for each 128 columns; strips end with scales of tiles
//   kSumScale                   true units of a sum
//   kGlobalScales               strips end with two scales, for rows g and g + 8 of each 16
//   kConverted                  tiles are made of others by CTAs of their own (converted.cuh); the sums of a weight row
//                               have a scale
//   kRounded                    rows are what e4m3 codes with a scale for each 128 columns are worth, in bf16
//                               (rounded_rows.cuh)
#pragma once

#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {

/// e4m3 with e4m3 rows.
struct WideE4m3 {
    static constexpr int kStageBlocks = 2;
    static constexpr int kTileBlocks = 2;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr bool kFromShared = true;
    static constexpr bool kQuantized = true;
    static constexpr bool kGlobalScales = false;
    static constexpr bool kConverted = false;
    static constexpr bool kRounded = false;
    static constexpr float kSumScale = 1.0F;
};

/// e5m2, made of 4-bit weights, with e4m3 rows.
struct WideConverted : WideE4m3 {
    static constexpr bool kConverted = true;
};

struct WideBf16 {
    static constexpr int kStageBlocks = 1;
    static constexpr int kTileBlocks = 1;
    static constexpr int kTileBytes = 8192;
    static constexpr int kStripStageBytes = 8192;
    static constexpr bool kFromShared = true;
    static constexpr bool kQuantized = false;
    static constexpr bool kGlobalScales = false;
    static constexpr bool kConverted = false;
    static constexpr bool kRounded = false;
    static constexpr float kSumScale = 1.0F;
};

template <class Weights>
struct Wide4Bit : Weights {
    static constexpr bool kFromShared = false;
    static constexpr bool kQuantized = false;
    static constexpr bool kGlobalScales = false;
    static constexpr bool kConverted = false;
    static constexpr bool kRounded = false;
};

/// With e4m3 rows.
template <class Weights>
struct WideRounded4Bit : Wide4Bit<Weights> {
    static constexpr bool kRounded = true;
};

struct WideNvfp4 : Nvfp4Weights {
    static constexpr bool kFromShared = false;
    static constexpr bool kQuantized = false;
    static constexpr bool kConverted = false;
    static constexpr bool kRounded = false;
};

}  // namespace tokamak::moe::cuda
