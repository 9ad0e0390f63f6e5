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
#include "moe/cuda/wide/stage_scales.cuh"

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

/// What a lane holds of 128 columns of one strip.
template <class Weights>
struct WidePart {
    static constexpr bool kOwnScales = true;
    using StageScales = WideNoScales;
    typename Weights::Slab slabs[2];

    __device__ __forceinline__ static int scale_place(int slab, int lane) { return Weights::scale_place(slab, lane); }
    /// From shared addresses of the lane's codes and scales in the first strip of a stage.
    __device__ __forceinline__ void load(std::uint32_t codes, std::uint32_t scales, int offset) {
        slabs[0].load(codes, scales, offset, 0);
        slabs[1].load(codes, scales, offset, 1);
    }
    __device__ __forceinline__ void convert(const StageScales&, int, std::uint32_t (&a)[2][4][4]) {
        slabs[0].convert(a[0]);
        slabs[1].convert(a[1]);
    }
    __device__ __forceinline__ void convert_first(const StageScales&, int, std::uint32_t (&a)[4][4]) {
        slabs[0].convert(a);
    }
};

/// The same where lanes take scales that others made.
template <class Weights>
struct WideScaledPart {
    static constexpr bool kOwnScales = false;
    using StageScales = WideStageScales<Weights>;
    uint4 words[2];

    __device__ __forceinline__ static int scale_place(int slab, int lane) { return StageScales::place(slab, lane); }
    __device__ __forceinline__ void load(std::uint32_t codes, std::uint32_t, int offset) {
#pragma unroll
        for (int block = 0; block < 2; ++block)
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(words[block].x), "=r"(words[block].y), "=r"(words[block].z), "=r"(words[block].w)
                         : "r"(codes + static_cast<std::uint32_t>(offset + block * Weights::kTileBytes))
                         : "memory");
    }
    /// `number`: of the part, of a stage's two.
    __device__ __forceinline__ void convert(const StageScales& scales, int number, std::uint32_t (&a)[2][4][4]) const {
        convert_block(words[0], scales.of(number * 2), a[0]);
        convert_block(words[1], scales.of(number * 2 + 1), a[1]);
    }
    __device__ __forceinline__ void convert_first(const StageScales& scales, int number,
                                                  std::uint32_t (&a)[4][4]) const {
        convert_block(words[0], scales.of(number * 2), a);
    }

  private:
    __device__ __forceinline__ static void convert_block(const uint4& w, const typename StageScales::Sets& sets,
                                                         std::uint32_t (&a)[4][4]) {
        const std::uint32_t all[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int step = 0; step < 4; ++step) Weights::fragment(a[step], all[step], sets.of_step(step));
    }
};

template <class Weights>
struct Wide4Bit : Weights {
    using Part = WidePart<Weights>;

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

struct WideMxfp4 : Wide4Bit<Mxfp4Weights> {
    using Part = WideScaledPart<Mxfp4Weights>;
};

/// Stages of 256 columns.
struct WideMxfp4Long : WideMxfp4 {
    static constexpr int kStageBlocks = 4;
    static constexpr int kStripStageBytes = kStageBlocks * kTileBytes;
};

struct WideNvfp4 : Nvfp4Weights {
    using Part = WidePart<Nvfp4Weights>;
    static constexpr bool kFromShared = false;
    static constexpr bool kQuantized = false;
    static constexpr bool kConverted = false;
    static constexpr bool kRounded = false;
};

/// Up to 64 rows.
struct WideNvfp4Parts : WideNvfp4 {
    using Part = WideScaledPart<Nvfp4Weights>;
};

}  // namespace tokamak::moe::cuda
