// SPDX-License-Identifier: Apache-2.0
// One packed 4-bit tile (docs/formats.md) times 8 tokens, by mma.m16n8k16. No weight is multiplied: group scales go on
// the accumulator, the zero point is where it starts (docs/kernels/layout_probe.md).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/decode/e4m3.cuh"
#include "cuda/decode/int4.cuh"
#include "cuda/decode/mxfp4.cuh"
#include "cuda/ptx/mma.cuh"

namespace tokamak::cuda {

inline constexpr int kTileTokens = 8;
inline constexpr int kTileRows = 64;
inline constexpr int kTileSlabs = 4;  ///< of 16 rows

/// How a tile wants the token rows in shared memory.
enum class TokenForm : std::uint8_t {
    scaled,       ///< bf16 times kActivationScale; group sums beside them for formats with a zero point
    interleaved,  ///< the same, of each 4 columns the odd ones in the first half of their 16, the even ones in the
                  ///< second
    quantized,    ///< e4m3, one scale for every 128 columns beside them
};
__host__ __device__ constexpr int token_value_bytes(TokenForm form) { return form == TokenForm::quantized ? 1 : 2; }

/// A tile that one warp multiplies as a whole.
struct WholeTile {
    static constexpr int kPieces = 1;
    static constexpr int kSlabs = kTileSlabs;
    static constexpr TokenForm kForm = TokenForm::scaled;
    static constexpr bool kStripScales = false;
    static constexpr bool kGlobalScales = false;
};

/// int4 with bf16 or f16 scales.
template <int Group, class Scale = __nv_bfloat16>
struct Int4Tile : WholeTile {
    using Decode = Int4Decode;
    static constexpr int kGroup = Group;
    static constexpr int kCols = Group > 64 ? Group : 64;
    static constexpr int kGroups = kCols / Group;
    static constexpr int kCodeBytes = kTileRows * kCols / 2;
    static constexpr int kBytes = kCodeBytes + (kGroups == 2 ? 256 : 128);

    /// Scales of rows g and g + 8 of a slab for each group of the tile.
    __device__ static void scales(const std::uint8_t* tile, int slab, int g, float (&s)[kGroups][2]) {
        const auto* words = reinterpret_cast<const std::uint32_t*>(tile + kCodeBytes) + (slab * 8 + g) * kGroups;
        std::uint32_t pair[kGroups];
        if constexpr (kGroups == 2) {
            const uint2 both = *reinterpret_cast<const uint2*>(words);
            pair[0] = both.x;
            pair[1] = both.y;
        } else {
            pair[0] = words[0];
        }
#pragma unroll
        for (int group = 0; group < kGroups; ++group) unpack(pair[group], s[group]);
    }
    /// Those of one half of the tile's columns.
    __device__ static void half_scales(const std::uint8_t* tile, int slab, int g, int half, float (&s)[1][2]) {
        unpack(reinterpret_cast<const std::uint32_t*>(tile + kCodeBytes)[(slab * 8 + g) * kGroups + half], s[0]);
    }

  private:
    __device__ static void unpack(std::uint32_t pair, float (&s)[2]) {
        if constexpr (std::is_same_v<Scale, __half>) {
            const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
            s[0] = both.x;
            s[1] = both.y;
        } else {
            s[0] = __uint_as_float(pair << 16);
            s[1] = __uint_as_float(pair & 0xFFFF0000U);
        }
    }
};

struct Mxfp4Tile : WholeTile {
    using Decode = Mxfp4Decode;
    static constexpr int kGroup = 32;
    static constexpr int kCols = 64;
    static constexpr int kGroups = 2;
    static constexpr int kCodeBytes = 2048;
    static constexpr int kBytes = 2176;

    __device__ static void scales(const std::uint8_t* tile, int slab, int g, float (&s)[kGroups][2]) {
        float all[4];
        Mxfp4Decode::scales(*reinterpret_cast<const std::uint32_t*>(tile + kCodeBytes + slab * 32 + g * 4), all);
        s[0][0] = all[0];
        s[0][1] = all[1];
        s[1][0] = all[2];
        s[1][1] = all[3];
    }
    __device__ static void half_scales(const std::uint8_t* tile, int slab, int g, int half, float (&s)[1][2]) {
        const std::uint32_t codes =
            *reinterpret_cast<const std::uint16_t*>(tile + kCodeBytes + slab * 32 + g * 4 + half * 2);
        s[0][0] = __uint_as_float((codes & 0xFFU) << 23);
        s[0][1] = __uint_as_float((codes & 0xFF00U) << 15);
    }
};

/// e2m1 codes as in mxfp4, with e4m3 scales of 16 columns; the global scales at the end of the strip are for its sums.
struct Nvfp4Tile : WholeTile {
    using Decode = Mxfp4Decode;
    static constexpr bool kGlobalScales = true;
    static constexpr int kGroup = 16;
    static constexpr int kCols = 64;
    static constexpr int kGroups = 4;
    static constexpr int kCodeBytes = 2048;
    static constexpr int kBytes = 2304;

    __device__ static void scales(const std::uint8_t* tile, int slab, int g, float (&s)[kGroups][2]) {
        const uint2 codes = *reinterpret_cast<const uint2*>(tile + kCodeBytes + (slab * 8 + g) * 8);
        unpack(codes.x, s[0], s[1]);
        unpack(codes.y, s[2], s[3]);
    }
    __device__ static void half_scales(const std::uint8_t* tile, int slab, int g, int half, float (&s)[2][2]) {
        unpack(*reinterpret_cast<const std::uint32_t*>(tile + kCodeBytes + (slab * 8 + g) * 8 + half * 4), s[0], s[1]);
    }

  private:
    __device__ static void unpack(std::uint32_t codes, float (&first)[2], float (&second)[2]) {
        std::uint32_t pairs[2];
        e4m3_to_f16(codes, pairs[0], pairs[1]);
        const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&pairs[0]));
        const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&pairs[1]));
        first[0] = low.x;
        first[1] = low.y;
        second[0] = high.x;
        second[1] = high.y;
    }
};

/// Bytes between the token rows that multiply_tile reads: 16 of padding make ldmatrix free of conflicts.
template <class Tile>
__device__ constexpr int token_pitch(int padded_cols) {
    return padded_cols * token_value_bytes(Tile::kForm) + 16;
}

/// Address that multiply_tile takes for the tile whose activations begin at `rows`, 8 rows `pitch` apart.
__device__ __forceinline__ std::uint32_t token_address(const std::uint8_t* rows, int pitch, int lane) {
    return ptx::shared_address(rows) + lane % 8 * pitch + lane / 8 * 16;
}

/// Accumulator of a group before its first product: the zero point times the group's sums of activations.
template <class Decode>
__device__ __forceinline__ void group_start(const float* group_sums, int lane, float (&start)[4]) {
    if constexpr (Decode::kHasZeroPoint) {
        const float2 sum = reinterpret_cast<const float2*>(group_sums)[lane % 4];
        start[0] = sum.x * Decode::kZeroPointLow;
        start[1] = sum.y * Decode::kZeroPointLow;
        start[2] = sum.x * Decode::kZeroPointHigh;
        start[3] = sum.y * Decode::kZeroPointHigh;
    }
}

/// sums[part][slab] += w x for equal parts of the tile's columns, in units that the row scales of Decode undo.
/// `group_sums`: [group of this tile, 8 tokens].
template <class Tile, int Parts>
__device__ __forceinline__ void multiply_parts(const std::uint8_t* tile, std::uint32_t x_address,
                                               const float* group_sums, int lane, float (&sums)[Parts][kTileSlabs][4]) {
    using Decode = typename Tile::Decode;
    constexpr int pairs = Tile::kCols / 32;  // of k16 steps
    constexpr int group_steps = Tile::kGroup / 16;
    std::uint32_t b[pairs][4];
#pragma unroll
    for (int pair = 0; pair < pairs; ++pair) ptx::load_matrix_x4(b[pair], x_address + pair * 64);
    float start[Tile::kGroups][4] = {};
#pragma unroll
    for (int group = 0; group < Tile::kGroups; ++group)
        group_start<Decode>(group_sums + group * kTileTokens, lane, start[group]);
#pragma unroll
    for (int slab = 0; slab < kTileSlabs; ++slab) {
        std::uint32_t words[pairs / 2][4];
#pragma unroll
        for (int block = 0; block < pairs / 2; ++block) {
            const uint4 four = *reinterpret_cast<const uint4*>(tile + block * 2048 + slab * 512 + lane * 16);
            words[block][0] = four.x;
            words[block][1] = four.y;
            words[block][2] = four.z;
            words[block][3] = four.w;
        }
        float scale[Tile::kGroups][2];
        Tile::scales(tile, slab, lane / 4, scale);
#pragma unroll
        for (int group = 0; group < Tile::kGroups; ++group) {
            float c[4] = {start[group][0], start[group][1], start[group][2], start[group][3]};
#pragma unroll
            for (int i = 0; i < group_steps; ++i) {
                const int step = group * group_steps + i;
                std::uint32_t a[4];
                Decode::fragment(a, words[step / 4][step % 4]);
                ptx::mma_m16n8k16(c, a, b[step / 2][step % 2 * 2], b[step / 2][step % 2 * 2 + 1], c);
            }
            float(&sum)[4] = sums[group * Parts / Tile::kGroups][slab];
            sum[0] = fmaf(scale[group][0], c[0], sum[0]);
            sum[1] = fmaf(scale[group][0], c[1], sum[1]);
            sum[2] = fmaf(scale[group][1], c[2], sum[2]);
            sum[3] = fmaf(scale[group][1], c[3], sum[3]);
        }
    }
}

/// The same, whole.
template <class Tile>
__device__ __forceinline__ void multiply_tile(const std::uint8_t* tile, std::uint32_t x_address,
                                              const float* group_sums, int lane, float (&sums)[kTileSlabs][4]) {
    multiply_parts<Tile, 1>(tile, x_address, group_sums, lane, reinterpret_cast<float(&)[1][kTileSlabs][4]>(sums));
}

}  // namespace tokamak::cuda
