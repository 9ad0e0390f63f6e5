// SPDX-License-Identifier: Apache-2.0
// The int4 orders of AWQ and GPTQ, turned into rows of words with zero point 8.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "tokamak/tensor.h"

namespace tokamak::formats {

/// A matrix of `rows` outputs and `cols` inputs in groups of `group` inputs. Tensors may be unaligned.
struct TransposedInt4 {
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::int64_t group = 0;
    const std::byte* words = nullptr;   ///< awq: [cols, rows/8], gptq: [cols/8, rows]
    const std::byte* zeros = nullptr;   ///< [cols/group, rows/8]
    const std::byte* scales = nullptr;  ///< 16 bits each, [cols/group, rows]
};

/// Why a matrix has no exact counterpart; nothing if it has.
using Refusal = std::optional<std::string>;

/// Writes words [rows, cols/8], column 8w+j in bits 4j to 4j+3, whose code less 8 is the source's code less its zero
/// point. Refused where that leaves 0 to 15. Nibble i of an AWQ word is row 0, 2, 4, 6, 1, 3, 5, 7 of its eight.
Refusal convert_awq(const TransposedInt4& source, std::uint32_t* words);
/// `stored_less_one`: version 1 of the format, where zero point z is stored as z - 1. A stored 15 is refused: readers
/// disagree whether it is 16 or 0.
Refusal convert_gptq(const TransposedInt4& source, bool stored_less_one, std::uint32_t* words);
/// Scales to [rows, cols/group].
void transpose_scales(const TransposedInt4& source, std::uint16_t* scales);

/// Says where GPTQ's order of columns is not that of the groups: g_idx [cols] must be i / group.
Refusal check_column_order(std::span<const std::byte> g_idx, std::int64_t cols, std::int64_t group);

}  // namespace tokamak::formats
