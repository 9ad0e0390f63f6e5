// SPDX-License-Identifier: Apache-2.0
// 4-bit fragments: the words of one slab (16 rows x 64 columns) in the register order of mma.m16n8k16's A operand.
//
// Lane l = 4g + t has four 32-bit words, one per k16 step. A word holds four pairs of codes:
//   pair 0: row g,     columns 2t, 2t+1          pair 1: row g+8, columns 2t, 2t+1
//   pair 2: row g,     columns 2t+8, 2t+9        pair 3: row g+8, columns 2t+8, 2t+9
// The first code of each pair is in the word's low half, the second in the high half, both with the same bit order, so
// a pair costs a shift and a mask on the whole word.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "formats/packed_tile.h"

namespace tokamak::formats {

/// Codes of a slab as checkpoints order them: 32 bytes a row, the low nibble is the lower column.
using SlabCodes = std::array<std::array<std::uint8_t, kBlockCols / 2>, kSlabRows>;

/// Bit of a 16-bit half that holds bit 0..3 of the code of pair 0..3.
using HalfBits = std::array<std::array<std::uint8_t, 4>, 4>;

/// int4: pair p is (x >> 4p) & 0x000F000F.
inline constexpr HalfBits kInt4Bits = {{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}}};

/// mxfp4: each pair becomes two bf16 bit patterns (sign 15, exponent 8 and 7, mantissa 6), worth the value times
/// 2^-126:
///   pair 0 =  x       & 0x81C081C0        pair 1 = (x << 3) & 0x81C081C0        pair 2 = (x << 6) & 0x81C081C0
///   pair 3 = ((x << 1) & 0x80008000) | ((x >> 3) & 0x01800180) | ((x >> 7) & 0x00400040)
/// Three masks consume 12 of the 16 bits; the fourth pair takes what they leave: 14, 11, 10 and 13.
inline constexpr HalfBits kMxfp4Bits = {{{6, 7, 8, 15}, {3, 4, 5, 12}, {0, 1, 2, 9}, {13, 10, 11, 14}}};

constexpr const HalfBits& half_bits(WeightFormat format) noexcept {
    return format == WeightFormat::int4 ? kInt4Bits : kMxfp4Bits;
}

/// Word bits of a checkpoint byte (two neighbouring codes) that is pair p: table[p][byte].
using WordTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr WordTable make_word_table(const HalfBits& bits) noexcept {
    WordTable table{};
    for (std::size_t pair = 0; pair < 4; ++pair)
        for (std::size_t byte = 0; byte < 256; ++byte)
            for (std::size_t bit = 0; bit < 4; ++bit) {
                const auto low = static_cast<std::uint32_t>(byte >> bit & 1U);
                const auto high = static_cast<std::uint32_t>(byte >> (bit + 4) & 1U);
                table[pair][byte] |= low << bits[pair][bit] | high << (bits[pair][bit] + 16);
            }
    return table;
}

/// Codes of a half, by its low and its high byte: table[0][low] | table[1][high] has the code of pair p in bits
/// 4p..4p+3.
using CodeTable = std::array<std::array<std::uint16_t, 256>, 2>;

constexpr CodeTable make_code_table(const HalfBits& bits) noexcept {
    CodeTable table{};
    for (std::size_t pair = 0; pair < 4; ++pair)
        for (std::size_t bit = 0; bit < 4; ++bit) {
            const std::size_t position = bits[pair][bit];
            for (std::size_t byte = 0; byte < 256; ++byte)
                if ((byte >> position % 8 & 1U) != 0)
                    table[position / 8][byte] |= static_cast<std::uint16_t>(1U << (4 * pair + bit));
        }
    return table;
}

inline constexpr WordTable kInt4Words = make_word_table(kInt4Bits);
inline constexpr WordTable kMxfp4Words = make_word_table(kMxfp4Bits);
inline constexpr CodeTable kInt4Codes = make_code_table(kInt4Bits);
inline constexpr CodeTable kMxfp4Codes = make_code_table(kMxfp4Bits);

constexpr const WordTable& word_table(WeightFormat format) noexcept {
    return format == WeightFormat::int4 ? kInt4Words : kMxfp4Words;
}

constexpr const CodeTable& code_table(WeightFormat format) noexcept {
    return format == WeightFormat::int4 ? kInt4Codes : kMxfp4Codes;
}

/// Four codes of a half of a word: pair p in bits 4p..4p+3.
inline std::uint32_t half_codes(const CodeTable& table, std::uint32_t half) noexcept {
    return std::uint32_t{table[0][half & 0xFFU]} | table[1][half >> 8 & 0xFFU];
}

inline void encode_fragment(const WordTable& table, const SlabCodes& codes, std::byte* out) noexcept {
    for (std::size_t g = 0; g < 8; ++g)
        for (std::size_t t = 0; t < 4; ++t) {
            std::array<std::uint32_t, 4> words{};
            for (std::size_t w = 0; w < 4; ++w)
                words[w] = table[0][codes[g][8 * w + t]] | table[1][codes[g + 8][8 * w + t]] |
                           table[2][codes[g][8 * w + t + 4]] | table[3][codes[g + 8][8 * w + t + 4]];
            std::memcpy(out + (g * 4 + t) * sizeof words, words.data(), sizeof words);
        }
}

inline void decode_fragment(const CodeTable& table, const std::byte* in, SlabCodes& codes) noexcept {
    for (std::size_t g = 0; g < 8; ++g)
        for (std::size_t t = 0; t < 4; ++t) {
            std::array<std::uint32_t, 4> words{};
            std::memcpy(words.data(), in + (g * 4 + t) * sizeof words, sizeof words);
            for (std::size_t w = 0; w < 4; ++w) {
                const std::uint32_t low = half_codes(table, words[w] & 0xFFFFU);
                const std::uint32_t high = half_codes(table, words[w] >> 16);
                const auto pair = [&](std::size_t p) {
                    return static_cast<std::uint8_t>((low >> 4 * p & 15U) | (high >> 4 * p & 15U) << 4);
                };
                codes[g][8 * w + t] = pair(0);
                codes[g + 8][8 * w + t] = pair(1);
                codes[g][8 * w + t + 4] = pair(2);
                codes[g + 8][8 * w + t + 4] = pair(3);
            }
        }
}

}  // namespace tokamak::formats
