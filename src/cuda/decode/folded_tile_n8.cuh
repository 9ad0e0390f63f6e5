// SPDX-License-Identifier: Apache-2.0
// A 4-bit tile with several groups of columns times few tokens. The matrix instruction has room for 8: its columns are
// 4 tokens in each half of the tile's columns, or 2 tokens in each quarter, and where one part is multiplied the others
// read zeros. So the parts share accumulators, and a lane has fewer scales to find and to apply.
#pragma once

#include <cstdint>

#include "cuda/decode/tile_n8.cuh"

namespace tokamak::cuda {

/// Tiles whose groups are summed apart, so that a token's sums do not depend on how many others there are.
template <class Tile>
inline constexpr bool kFolds = Tile::kPieces == 1 && Tile::kGroups > 1;
template <class Tile>
inline constexpr int kParts = kFolds<Tile> ? Tile::kGroups : 1;

/// Where a lane finds an expert's tokens: for each half of a tile an address for ldmatrix and the bytes from tile to
/// tile, none where it reads zeros.
struct FoldedTokens {
    std::uint32_t address[2] = {};
    int step[2] = {};
    const float* group_sums[2] = {};  ///< of its two columns in the first tile, for formats with a zero point
};

/// sums[group of a part][slab] += w x, where a lane's columns are those of part `lane % 4 * Fold / 4` of the tile.
template <class Tile, int Fold>
__device__ __forceinline__ void multiply_folded(const std::uint8_t* tile, const FoldedTokens& tokens, int index,
                                                int lane, float (&sums)[Tile::kGroups / Fold][kTileSlabs][4]) {
    using Decode = typename Tile::Decode;
    static_assert(Tile::kCols == 64 && kFolds<Tile>);
    static_assert(!Decode::kHasZeroPoint || Tile::kGroups == 2);
    constexpr int groups = Tile::kGroups / Fold;  // of a part
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
        Tile::part_scales(tile, slab, lane / 4, lane % 4 * Fold / 4, scale);
#pragma unroll
        for (int group = 0; group < groups; ++group) {
            float c[4] = {start[0], start[1], start[2], start[3]};
#pragma unroll
            for (int part = 0; part < Fold; ++part)
#pragma unroll
                for (int i = 0; i < group_steps; ++i) {
                    const int step = (part * groups + group) * group_steps + i;
                    std::uint32_t a[4];
                    Decode::fragment(a, words[step]);
                    ptx::mma_m16n8k16(c, a, b[step / 2][step % 2 * 2], b[step / 2][step % 2 * 2 + 1], c);
                }
            float(&sum)[4] = sums[group][slab];
            sum[0] = fmaf(scale[group][0], c[0], sum[0]);
            sum[1] = fmaf(scale[group][0], c[1], sum[1]);
            sum[2] = fmaf(scale[group][1], c[2], sum[2]);
            sum[3] = fmaf(scale[group][1], c[3], sum[3]);
        }
    }
}

/// Adds groups in pairs, as far as a lane has them.
template <int Groups>
__device__ __forceinline__ void add_groups(float (&sums)[Groups][kTileSlabs][4]) {
#pragma unroll
    for (int distance = 1; distance < Groups; distance *= 2)
#pragma unroll
        for (int group = 0; group < Groups; group += 2 * distance)
#pragma unroll
            for (int slab = 0; slab < kTileSlabs; ++slab)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[group][slab][i] += sums[group + distance][slab][i];
}

/// Adds what this lane and its neighbour at `Distance` have of `Slabs` slabs; each is left with every second one.
template <int Distance, int Slabs>
__device__ __forceinline__ void add_neighbours(int lane, float (&sums)[kTileSlabs][4]) {
    const bool second = (lane & Distance) != 0;
#pragma unroll
    for (int slab = 0; slab < Slabs / 2; ++slab)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float own = second ? sums[slab * 2 + 1][i] : sums[slab * 2][i];
            const float other = second ? sums[slab * 2][i] : sums[slab * 2 + 1][i];
            sums[slab][i] = own + __shfl_xor_sync(0xFFFFFFFFU, other, Distance);
        }
}

}  // namespace tokamak::cuda
