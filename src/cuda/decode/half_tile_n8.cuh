// SPDX-License-Identifier: Apache-2.0
// Half of a packed 8- or 16-bit tile, 32 rows of 128 swizzled bytes (docs/formats.md), times 8 tokens, by mma.m16n8k16.
// ldmatrix follows the swizzle without bank conflicts and gives each lane four bytes of a row's 16, which fixes the
// order of the columns inside a step of k: natural for bf16 and for codes that are converted in pairs, every second
// column first for codes that are moved into bf16 patterns.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "cuda/decode/tile_n8.cuh"

namespace tokamak::cuda {

/// What the three have in common: a tile comes in two pieces of 32 rows.
struct HalfTile {
    static constexpr int kPieces = 2;
    static constexpr int kSlabs = 2;
    static constexpr int kBytes = 4096;
    static constexpr bool kGlobalScales = false;
};

struct PlainDecode {
    static constexpr float kActivationScale = 1.0F;
    static constexpr float kRowScaleLow = 1.0F;
    static constexpr float kRowScaleHigh = 1.0F;
    static constexpr bool kHasZeroPoint = false;
};

struct Bf16Tile : HalfTile {
    using Decode = PlainDecode;
    static constexpr TokenForm kForm = TokenForm::scaled;
    static constexpr bool kStripScales = false;
    static constexpr int kCols = 64;
    static constexpr int kGroup = 64;
    static constexpr int kGroups = 1;
};

/// e4m3 weights and bf16 activations: codes become bf16 patterns worth 2^-120 of their value.
struct Fp8Tile : HalfTile {
    struct Decode {
        static constexpr float kActivationScale = 0x1p100F;
        static constexpr float kRowScaleLow = 0x1p20F;
        static constexpr float kRowScaleHigh = 0x1p20F;
        static constexpr bool kHasZeroPoint = false;
    };
    static constexpr TokenForm kForm = TokenForm::interleaved;
    static constexpr bool kStripScales = true;
    static constexpr int kCols = 128;
    static constexpr int kGroup = 128;
    static constexpr int kGroups = 1;
};

/// e4m3 weights and activations. The mma of Hopper that takes e4m3 converts both operands to f16 each time it is
/// issued; this one converts those of the tokens once.
struct Fp8QuantizedTile : HalfTile {
    using Decode = PlainDecode;
    static constexpr TokenForm kForm = TokenForm::quantized;
    static constexpr bool kStripScales = true;
    static constexpr int kCols = 128;
    static constexpr int kGroup = 128;
    static constexpr int kGroups = 1;
};

/// Reads the A operands of a piece: step j gives 16 rows of 32 bytes.
class PieceReader {
  public:
    __device__ __forceinline__ PieceReader(const std::uint8_t* piece, int lane)
        : rows_(ptx::shared_address(piece) + lane % 16 * 128), chunk_((lane / 16 ^ lane % 8) * 16) {}

    /// Registers: rows 0 to 7 and 8 to 15 of the first 16 bytes, then of the second.
    __device__ __forceinline__ void load(std::uint32_t (&words)[4], int slab, int step) const {
        ptx::load_matrix_x4(words, rows_ + slab * 2048 + (chunk_ ^ (step * 32)));
    }

  private:
    std::uint32_t rows_;
    std::uint32_t chunk_;
};

/// sums[slab] += w x for 32 rows; `scales` (fp8) are those of rows g and of rows g + 8 in the tile, `group_scales`
/// (quantised activations) those of the tokens.
template <class Tile>
__device__ __forceinline__ void multiply_piece(const std::uint8_t* piece, const float* scales, std::uint32_t x_address,
                                               const float* group_scales, int lane, float (&sums)[2][4]);

template <>
__device__ __forceinline__ void multiply_piece<Bf16Tile>(const std::uint8_t* piece, const float*,
                                                         std::uint32_t x_address, const float*, int lane,
                                                         float (&sums)[2][4]) {
    const PieceReader reader(piece, lane);
    std::uint32_t b[2][4];
    ptx::load_matrix_x4(b[0], x_address);
    ptx::load_matrix_x4(b[1], x_address + 64);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int slab = 0; slab < 2; ++slab) {
            std::uint32_t a[4];
            reader.load(a, slab, step);
            ptx::mma_m16n8k16(sums[slab], a, b[step / 2][step % 2 * 2], b[step / 2][step % 2 * 2 + 1], sums[slab]);
        }
}

template <>
__device__ __forceinline__ void multiply_piece<Fp8Tile>(const std::uint8_t* piece, const float* scales,
                                                        std::uint32_t x_address, const float*, int lane,
                                                        float (&sums)[2][4]) {
    const PieceReader reader(piece, lane);
    float c[2][4] = {};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        std::uint32_t b[4];
        ptx::load_matrix_x4(b, x_address + step * 64);
#pragma unroll
        for (int slab = 0; slab < 2; ++slab) {
            std::uint32_t words[4];
            reader.load(words, slab, step);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const E4m3Moved low = e4m3_moved(words[half * 2]);
                const E4m3Moved high = e4m3_moved(words[half * 2 + 1]);
                const std::uint32_t a[4] = {low.odd, high.odd, low.even, high.even};
                ptx::mma_m16n8k16(c[slab], a, b[half * 2], b[half * 2 + 1], c[slab]);
            }
        }
    }
    const float low = scales[0];
    const float high = scales[1];
#pragma unroll
    for (int slab = 0; slab < 2; ++slab)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[slab][i] = fmaf(i < 2 ? low : high, c[slab][i], sums[slab][i]);
}

template <>
__device__ __forceinline__ void multiply_piece<Fp8QuantizedTile>(const std::uint8_t* piece, const float* scales,
                                                                 std::uint32_t x_address, const float* group_scales,
                                                                 int lane, float (&sums)[2][4]) {
    const PieceReader reader(piece, lane);
    float c[2][4] = {};
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        std::uint32_t codes[4];  // 16 columns each
        ptx::load_matrix_x4(codes, x_address + pair * 64);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            std::uint32_t b[2][2];
            e4m3_to_f16(codes[i * 2], b[0][0], b[0][1]);
            e4m3_to_f16(codes[i * 2 + 1], b[1][0], b[1][1]);
#pragma unroll
            for (int slab = 0; slab < 2; ++slab) {
                std::uint32_t words[4];
                reader.load(words, slab, pair * 2 + i);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    std::uint32_t a[4];
                    e4m3_to_f16(words[half * 2], a[0], a[2]);
                    e4m3_to_f16(words[half * 2 + 1], a[1], a[3]);
                    ptx::mma_m16n8k16_f16(c[slab], a, b[half][0], b[half][1], c[slab]);
                }
            }
        }
    }
    const float2 token = reinterpret_cast<const float2*>(group_scales)[lane % 4];
    const float scale[4] = {scales[0] * token.x, scales[0] * token.y, scales[1] * token.x, scales[1] * token.y};
#pragma unroll
    for (int slab = 0; slab < 2; ++slab)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[slab][i] = fmaf(scale[i], c[slab][i], sums[slab][i]);
}

}  // namespace tokamak::cuda
