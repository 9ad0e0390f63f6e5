// SPDX-License-Identifier: Apache-2.0
// 4-bit fragments: the words of one slab (16 rows x 64 columns) in the register order of mma.m16n8k16's A operand.
//
// Lane l = 4g + t has four 32-bit words, one per k16 step. A word holds four pairs of codes:
//   pair 0: row g,     columns 2t, 2t+1          pair 1: row g+8, columns 2t, 2t+1
//   pair 2: row g,     columns 2t+8, 2t+9        pair 3: row g+8, columns 2t+8, 2t+9
// The second code of a pair lies 16 bits after the first (modulo 32), so a pair costs a shift or rotation and a mask on
// the whole word.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "formats/packed_tile.h"

namespace tokamak::formats {

/// Codes of a slab as checkpoints order them: 32 bytes a row, the low nibble is the lower column.
using SlabCodes = std::array<std::array<std::uint8_t, kBlockCols / 2>, kSlabRows>;

/// Bit of a word that holds bit 0..3 of the first code of pair 0..3; the second code's bit is 16 further, modulo 32.
using PairBits = std::array<std::array<std::uint8_t, 4>, 4>;

/// int4: pair p is (x >> 4p) & 0x000F000F.
inline constexpr PairBits kInt4Bits = {{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}}};

/// mxfp4: each pair becomes two bf16 bit patterns (sign 15, exponent 8 and 7, mantissa 6), worth the value times
/// 2^-126, by
///   pair 0 = x & M      pair 1 = (x << 6) & M      pair 2 = rotate_left(x, 10) & M      with M = 0x81C081C0
///   pair 3 = ((x << 4) & 0x81808180) | ((x >> 4) & 0x00400040)
/// Nine instructions for eight codes, five of them masks. A search over all placements found none with four masks, and
/// none with five and fewer than two shifts to the right or rotations (shifts to the left run on the multiplier pipe).
inline constexpr PairBits kMxfp4Bits = {{{6, 7, 8, 15}, {0, 1, 2, 9}, {28, 29, 30, 5}, {10, 3, 4, 11}}};

/// Word bits of a checkpoint byte (two neighbouring codes) that is pair p: table[p][byte].
using WordTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr WordTable make_word_table(const PairBits& bits) noexcept {
    WordTable table{};
    for (std::size_t pair = 0; pair < 4; ++pair)
        for (std::size_t byte = 0; byte < 256; ++byte)
            for (std::size_t bit = 0; bit < 4; ++bit) {
                const auto first = static_cast<std::uint32_t>(byte >> bit & 1U);
                const auto second = static_cast<std::uint32_t>(byte >> (bit + 4) & 1U);
                table[pair][byte] |= first << bits[pair][bit] | second << (bits[pair][bit] + 16U) % 32U;
            }
    return table;
}

/// Codes of a word, by its four bytes: the union of table[i][byte i] has the first code of pair p in bits 4p..4p+3 and
/// the second in bits 16+4p..16+4p+3.
using CodeTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr CodeTable make_code_table(const PairBits& bits) noexcept {
    CodeTable table{};
    for (std::size_t pair = 0; pair < 4; ++pair)
        for (std::size_t bit = 0; bit < 4; ++bit)
            for (std::size_t second = 0; second < 2; ++second) {
                const std::size_t position = (bits[pair][bit] + 16U * second) % 32U;
                for (std::size_t byte = 0; byte < 256; ++byte)
                    if ((byte >> position % 8 & 1U) != 0)
                        table[position / 8][byte] |= 1U << (16 * second + 4 * pair + bit);
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

/// The eight codes of a word, in the order that CodeTable describes.
inline std::uint32_t word_codes(const CodeTable& table, std::uint32_t word) noexcept {
    return table[0][word & 0xFFU] | table[1][word >> 8 & 0xFFU] | table[2][word >> 16 & 0xFFU] | table[3][word >> 24];
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
                const std::uint32_t all = word_codes(table, words[w]);
                const auto pair = [&](std::size_t p) {
                    return static_cast<std::uint8_t>((all >> 4 * p & 15U) | (all >> (16 + 4 * p) & 15U) << 4);
                };
                codes[g][8 * w + t] = pair(0);
                codes[g + 8][8 * w + t] = pair(1);
                codes[g][8 * w + t + 4] = pair(2);
                codes[g + 8][8 * w + t + 4] = pair(3);
            }
        }
}

}  // namespace tokamak::formats
