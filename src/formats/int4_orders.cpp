// SPDX-License-Identifier: Apache-2.0
#include "formats/int4_orders.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

namespace tokamak::formats {
namespace {

constexpr std::array<int, 8> kAwqRows = {0, 2, 4, 6, 1, 3, 5, 7};  ///< of nibble i
constexpr std::array<int, 8> kInOrder = {0, 1, 2, 3, 4, 5, 6, 7};

std::uint32_t load_word(const std::byte* words, std::int64_t index) noexcept {
    std::uint32_t word = 0;
    std::memcpy(&word, words + index * std::int64_t{sizeof word}, sizeof word);
    return word;
}

std::uint32_t nibble(std::uint32_t word, int index) noexcept { return word >> (4 * index) & 15U; }

/// Zero points of eight neighbouring rows in one group, by row.
using Zeros = std::array<int, 8>;

Zeros load_zeros(std::uint32_t word, const std::array<int, 8>& row_of, int added) noexcept {
    Zeros zeros{};
    for (int i = 0; i < 8; ++i)
        zeros[static_cast<std::size_t>(row_of[static_cast<std::size_t>(i)])] =
            static_cast<int>(nibble(word, i)) + added;
    return zeros;
}

/// Moves eight codes by 8 - zero. False if one leaves 0 to 15; then `bad` is its place in the word.
bool fold(std::uint32_t& word, int zero, int& bad) noexcept {
    if (zero == 8) return true;
    std::uint32_t folded = 0;
    for (int j = 0; j < 8; ++j) {
        const int code = static_cast<int>(nibble(word, j)) - zero + 8;
        if (code < 0 || code > 15) {
            bad = j;
            return false;
        }
        folded |= static_cast<std::uint32_t>(code) << (4 * j);
    }
    word = folded;
    return true;
}

std::string unfoldable(std::uint32_t word, int zero, int bad, std::int64_t row, std::int64_t col) {
    const auto code = static_cast<int>(nibble(word, bad));
    return fmt::format(
        "output {}, input {} has code {} with zero point {}, which is {}: int4 weights are stored as -8 to 7 without a "
        "zero point, and a cut would change the weight",
        row, col + bad, code, zero, code - zero);
}

/// Writes the eight words of eight rows and eight columns; `words[r]` has the columns of row r.
Refusal store_block(const TransposedInt4& source, std::array<std::uint32_t, 8>& words, const Zeros& zeros,
                    std::int64_t row, std::int64_t col, std::uint32_t* out) {
    for (std::size_t r = 0; r < 8; ++r) {
        int bad = 0;
        const std::int64_t at = row + static_cast<std::int64_t>(r);
        if (!fold(words[r], zeros[r], bad)) return unfoldable(words[r], zeros[r], bad, at, col);
        out[at * (source.cols / 8) + col / 8] = words[r];
    }
    return std::nullopt;
}

}  // namespace

Refusal convert_awq(const TransposedInt4& source, std::uint32_t* out) {
    const std::int64_t row_words = source.rows / 8;
    for (std::int64_t col = 0; col < source.cols; col += 8)
        for (std::int64_t w = 0; w < row_words; ++w) {
            const Zeros zeros = load_zeros(load_word(source.zeros, col / source.group * row_words + w), kAwqRows, 0);
            std::array<std::uint32_t, 8> words{};
            for (int j = 0; j < 8; ++j) {
                const std::uint32_t word = load_word(source.words, (col + j) * row_words + w);
                for (int i = 0; i < 8; ++i)
                    words[static_cast<std::size_t>(kAwqRows[static_cast<std::size_t>(i)])] |= nibble(word, i)
                                                                                              << (4 * j);
            }
            if (Refusal refusal = store_block(source, words, zeros, 8 * w, col, out)) return refusal;
        }
    return std::nullopt;
}

Refusal convert_gptq(const TransposedInt4& source, bool stored_less_one, std::uint32_t* out) {
    const std::int64_t row_words = source.rows / 8;
    for (std::int64_t col = 0; col < source.cols; col += 8)
        for (std::int64_t w = 0; w < row_words; ++w) {
            const std::uint32_t stored = load_word(source.zeros, col / source.group * row_words + w);
            const Zeros zeros = load_zeros(stored, kInOrder, stored_less_one ? 1 : 0);
            for (std::size_t r = 0; stored_less_one && r < 8; ++r)
                if (zeros[r] == 16)
                    return fmt::format(
                        "output {}, group {} has the stored zero point 15, which readers of this version take for 16 "
                        "or for 0",
                        8 * w + static_cast<std::int64_t>(r), col / source.group);
            std::array<std::uint32_t, 8> words{};
            for (std::size_t r = 0; r < 8; ++r)
                words[r] = load_word(source.words, col / 8 * source.rows + 8 * w + static_cast<std::int64_t>(r));
            if (Refusal refusal = store_block(source, words, zeros, 8 * w, col, out)) return refusal;
        }
    return std::nullopt;
}

void transpose_scales(const TransposedInt4& source, std::uint16_t* scales) {
    const std::int64_t groups = source.cols / source.group;
    for (std::int64_t group = 0; group < groups; ++group)
        for (std::int64_t row = 0; row < source.rows; ++row)
            std::memcpy(scales + row * groups + group,
                        source.scales + (group * source.rows + row) * std::int64_t{sizeof(std::uint16_t)},
                        sizeof(std::uint16_t));
}

Refusal check_column_order(std::span<const std::byte> g_idx, std::int64_t cols, std::int64_t group) {
    for (std::int64_t col = 0; col < cols; ++col) {
        const auto index = static_cast<std::int32_t>(load_word(g_idx.data(), col));
        if (index != col / group)
            return fmt::format(
                "puts input {} into group {}, expected {}: reordered columns (act-order) are not supported, only "
                "groups "
                "of {} neighbouring ones",
                col, index, col / group, group);
    }
    return std::nullopt;
}

}  // namespace tokamak::formats
