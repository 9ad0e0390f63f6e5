// SPDX-License-Identifier: Apache-2.0
// mxfp4 words of the packed layout (docs/formats.md) as bytes of e5m2. A word has four weights of row g and four of row
// g + 8, which share no scale; magnitudes are looked up by byte permutations, four at once, in the eight that a scale
// makes of them.
#pragma once

#include <cstdint>

namespace tokamak::moe::cuda {

// In forms that the compiler does not take apart: it makes two masks of a selection by a constant one.
__device__ __forceinline__ std::uint32_t pick_bits(std::uint32_t a, std::uint32_t b, std::uint32_t mask) {
    std::uint32_t picked;
    asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(picked) : "r"(mask), "r"(a), "r"(b));
    return picked;
}
__device__ __forceinline__ std::uint32_t with_signs(std::uint32_t magnitudes, std::uint32_t signs) {
    std::uint32_t bytes;
    asm("lop3.b32 %0, %1, %2, %3, 0xF8;" : "=r"(bytes) : "r"(magnitudes), "r"(signs), "r"(0x80808080U));
    return bytes;
}
__device__ __forceinline__ std::uint32_t masked_bits(std::uint32_t a, std::uint32_t mask) {
    std::uint32_t both;
    asm("and.b32 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(mask));
    return both;
}

/// Four bytes of a and b; no nibble of the selector is above 7, so that it needs no mask as that of __byte_perm.
__device__ __forceinline__ std::uint32_t pick_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
    std::uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
}
/// x >> Bits as a product: multiplications have a pipe of their own, the other one takes what else there is to do.
template <int Bits>
__device__ __forceinline__ std::uint32_t shifted_right(std::uint32_t x) {
    std::uint32_t high;
    asm("{\n .reg .b64 wide;\n .reg .b32 low;\n mul.wide.u32 wide, %1, %2;\n mov.b64 {low, %0}, wide;\n}"
        : "=r"(high)
        : "r"(x), "n"(1U << (32 - Bits)));
    return high;
}
/// x << Bits likewise.
template <int Bits>
__device__ __forceinline__ std::uint32_t shifted_left(std::uint32_t x) {
    std::uint32_t product;
    asm("mad.lo.u32 %0, %1, %2, 0;" : "=r"(product) : "r"(x), "n"(1U << Bits));
    return product;
}

/// Two words a and b of the same 32 columns; of each row the eight magnitudes times its scale. A result has columns
/// 2t, 2t + 9, 2t + 1 and 2t + 8 of its word's 16 as bytes, `high` 2t, 2t + 8, 2t + 1 and 2t + 9.
__device__ __forceinline__ void convert_e2m1_words(std::uint32_t a, std::uint32_t b, uint2 low_table, uint2 high_table,
                                                   std::uint32_t (&low)[2], std::uint32_t (&high)[2]) {
    const std::uint32_t la = pick_bits(a, shifted_left<2>(a), 0xF000F000U);
    const std::uint32_t lb = pick_bits(b, shifted_left<2>(b), 0xF000F000U);
    const std::uint32_t lows = masked_bits(__byte_perm(la, lb, 0x7531), 0x77777777U);
    low[0] = with_signs(pick_bytes(low_table.x, low_table.y, lows), __byte_perm(la, la, 0x0321));
    low[1] = with_signs(pick_bytes(low_table.x, low_table.y, shifted_right<16>(lows)), __byte_perm(lb, lb, 0x0321));
    const std::uint32_t ha = pick_bits(masked_bits(a, 0x04180418U) * 0x404U, shifted_left<8>(a), 0xF000F000U);
    const std::uint32_t hb = pick_bits(masked_bits(b, 0x04180418U) * 0x404U, shifted_left<8>(b), 0xF000F000U);
    const std::uint32_t highs = masked_bits(__byte_perm(ha, hb, 0x7531), 0x77777777U);
    high[0] = with_signs(pick_bytes(high_table.x, high_table.y, highs),
                         pick_bits(shifted_left<4>(a), shifted_right<2>(a), 0x80008000U));
    high[1] = with_signs(pick_bytes(high_table.x, high_table.y, shifted_right<16>(highs)),
                         pick_bits(shifted_left<4>(b), shifted_right<2>(b), 0x80008000U));
}

}  // namespace tokamak::moe::cuda
