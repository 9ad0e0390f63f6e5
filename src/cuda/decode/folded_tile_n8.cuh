// SPDX-License-Identifier: Apache-2.0
// A 4-bit tile with scales for 16 or 32 columns times at most 4 tokens. The matrix instruction has room for 8: its
// columns 0 to 3 are the tokens in the first half of the tile's columns, 4 to 7 the same tokens in the second half, and
// where one half is multiplied the other reads zeros. So both halves share accumulators, and a lane has half as many
// scales to find and to apply.
#pragma once

#include <cstdint>

#include "cuda/decode/tile_n8.cuh"

namespace tokamak::cuda {

inline constexpr int kFoldedTokens = 4;

/// Tiles whose halves are summed apart, so that a token's sums do not depend on how many others there are.
template <class Tile>
inline constexpr bool kFolds = Tile::kPieces == 1 && Tile::kGroups > 1;
template <class Tile>
inline constexpr int kParts = kFolds<Tile> ? 2 : 1;

/// Where a lane finds an expert's tokens: for each half of a tile an address for ldmatrix and the bytes from tile to
/// tile, none where it reads zeros.
struct FoldedTokens {
    std::uint32_t address[2] = {};
    int step[2] = {};
    const float* group_sums[2] = {};  ///< of its two columns in the first tile, for formats with a zero point
};

/// sums[slab] += w x, where columns 4 to 7 have the second half of the tile.
template <class Tile>
__device__ __forceinline__ void multiply_folded(const std::uint8_t* tile, const FoldedTokens& tokens, int index,
                                                int lane, float (&sums)[kTileSlabs][4]) {
    using Decode = typename Tile::Decode;
    static_assert(Tile::kCols == 64 && kFolds<Tile>);
    static_assert(!Decode::kHasZeroPoint || Tile::kGroups == 2);
    constexpr int groups = Tile::kGroups / 2;  // of a half
    constexpr int group_steps = Tile::kGroup / 16;
    std::uint32_t b[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) ptx::load_matrix_x4(b[half], tokens.address[half] + index * tokens.step[half]);
    float start[4] = {};
    if constexpr (Decode::kHasZeroPoint) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float sum = tokens.group_sums[i][index * Tile::kGroups * kTileTokens];
            start[i] = sum * Decode::kZeroPointLow;
            start[i + 2] = sum * Decode::kZeroPointHigh;
        }
    }
#pragma unroll
    for (int slab = 0; slab < kTileSlabs; ++slab) {
        const uint4 four = *reinterpret_cast<const uint4*>(tile + slab * 512 + lane * 16);
        const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
        float scale[groups][2];
        Tile::half_scales(tile, slab, lane / 4, lane % 4 / 2, scale);
#pragma unroll
        for (int group = 0; group < groups; ++group) {
            float c[4] = {start[0], start[1], start[2], start[3]};
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int i = group * group_steps; i < (group + 1) * group_steps; ++i) {
                    std::uint32_t a[4];
                    Decode::fragment(a, words[half * 2 + i]);
                    ptx::mma_m16n8k16(c, a, b[half][i * 2], b[half][i * 2 + 1], c);
                }
            sums[slab][0] = fmaf(scale[group][0], c[0], sums[slab][0]);
            sums[slab][1] = fmaf(scale[group][0], c[1], sums[slab][1]);
            sums[slab][2] = fmaf(scale[group][1], c[2], sums[slab][2]);
            sums[slab][3] = fmaf(scale[group][1], c[3], sums[slab][3]);
        }
    }
}

/// Adds the halves: a lane is left with slabs `lane % 4 / 2` and two further, in sums[0] and sums[1].
__device__ __forceinline__ void add_halves(int lane, float (&sums)[kTileSlabs][4]) {
    const bool second = lane % 4 >= 2;
#pragma unroll
    for (int slab = 0; slab < 2; ++slab)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float own = second ? sums[slab * 2 + 1][i] : sums[slab * 2][i];
            const float other = second ? sums[slab * 2][i] : sums[slab * 2 + 1][i];
            sums[slab][i] = own + __shfl_xor_sync(0xFFFFFFFFU, other, 2);
        }
}

}  // namespace tokamak::cuda
