// SPDX-License-Identifier: Apache-2.0
// From fp8 rows as they lie in shared memory to operands of mma.m16n8k16: rows are the second operand of the scores
// (heads by rows) and of the output (heads by dimensions). Order of rows and dimensions is free, if both operands
// agree; it is chosen so that all reads are free of bank conflicts where a row's stride is an odd number of 16 bytes.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::direct_decode {

/// Sixteen rows are two tiles of eight: the even and the odd ones. Row of the even tile at index n of a fragment.
/// Eight lanes that read 16 bytes at once then have rows four apart (scores); lanes 2 c have all even rows modulo
/// eight, in one order or the other (values).
__device__ __forceinline__ constexpr int row_of(int n) {
    const int upper = n >> 2;
    return 8 * upper + 4 * ((n & 1) ^ upper) + 2 * (n >> 1 & 1);
}

/// The two e4m3 codes in the lower half of a register as f16, and those in the upper half.
__device__ __forceinline__ std::uint32_t low_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}" : "=r"(halves) : "r"(four));
    return halves;
}
__device__ __forceinline__ std::uint32_t high_codes(std::uint32_t four) {
    std::uint32_t halves;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, h;\n}" : "=r"(halves) : "r"(four));
    return halves;
}

/// The same four dimensions of two rows: register i has dimension i of both.
__device__ __forceinline__ void pair_codes(std::uint32_t first, std::uint32_t second, std::uint32_t (&pairs)[4]) {
    const std::uint32_t lower = __byte_perm(first, second, 0x5140);
    const std::uint32_t upper = __byte_perm(first, second, 0x7362);
    pairs[0] = low_codes(lower);
    pairs[1] = high_codes(lower);
    pairs[2] = low_codes(upper);
    pairs[3] = high_codes(upper);
}
/// The same two bf16 dimensions of two rows.
__device__ __forceinline__ void pair_bf16(std::uint32_t first, std::uint32_t second, std::uint32_t (&pairs)[2]) {
    pairs[0] = __byte_perm(first, second, 0x5410);
    pairs[1] = __byte_perm(first, second, 0x7632);
}

/// d += a b; a [16, 16], b [16, 8] as registers b0 and b1. Not volatile: products of scores and values may mix.
template <bool Half>
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
    if constexpr (Half)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Scores of two tiles of rows, the even and the odd ones.
template <int HeadTiles>
using TileScores = float[2][HeadTiles][4];

/// 16 bytes of a row of each tile (lane 4 g + c: bytes 16 c of row row_of(g)) are the second operand of four steps of
/// 16 codes: step j takes the lane's codes 4 j to 4 j + 3, of which the first operand has the same dimensions.
template <int HeadTiles, int Steps>
__device__ __forceinline__ void score_codes(TileScores<HeadTiles>& scores,
                                            const std::uint32_t (&queries)[HeadTiles][Steps][4], int first_step,
                                            const uint4& even, const uint4& odd) {
    const std::uint32_t words[2][4] = {{even.x, even.y, even.z, even.w}, {odd.x, odd.y, odd.z, odd.w}};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const std::uint32_t b0 = low_codes(words[r][j]);
            const std::uint32_t b1 = high_codes(words[r][j]);
#pragma unroll
            for (int t = 0; t < HeadTiles; ++t) multiply_add<true>(scores[r][t], queries[t][first_step + j], b0, b1);
        }
    }
}

/// Eight dimensions 8 g to 8 g + 7 of the rows of a lane, those of index 2 c, 2 c + 1 in the even tile, then in the odd
/// one: sums[t] += weights values, tile i having dimension i of every lane.
template <int HeadTiles>
__device__ __forceinline__ void add_codes(float (&sums)[HeadTiles][8][4], const std::uint32_t (&weights)[HeadTiles][4],
                                          const uint2 (&rows)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const auto word = [&](int r) { return half == 0 ? rows[r].x : rows[r].y; };
        std::uint32_t b0[4];
        std::uint32_t b1[4];
        pair_codes(word(0), word(1), b0);
        pair_codes(word(2), word(3), b1);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int t = 0; t < HeadTiles; ++t) multiply_add<true>(sums[t][4 * half + i], weights[t], b0[i], b1[i]);
    }
}
/// The same with eight bf16 dimensions.
template <int HeadTiles>
__device__ __forceinline__ void add_bf16(float (&sums)[HeadTiles][8][4], const std::uint32_t (&weights)[HeadTiles][4],
                                         const uint4 (&rows)[4]) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        const auto of = [&](int r) {
            return word == 0 ? rows[r].x : word == 1 ? rows[r].y : word == 2 ? rows[r].z : rows[r].w;
        };
        std::uint32_t b0[2];
        std::uint32_t b1[2];
        pair_bf16(of(0), of(1), b0);
        pair_bf16(of(2), of(3), b1);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int t = 0; t < HeadTiles; ++t) multiply_add<false>(sums[t][2 * word + i], weights[t], b0[i], b1[i]);
    }
}

}  // namespace tokamak::mla::cuda::direct_decode
