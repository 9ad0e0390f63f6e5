// SPDX-License-Identifier: Apache-2.0
// Checkpoint matrices seen as rows of bytes, whatever the order of gate and up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tokamak/weight_format.h"

namespace tokamak::formats {

/// Throws `invalid_argument` unless the matrix is `spec` [rows, cols] with tensors to match. Data may be unaligned:
/// everything is read by copying. `written`: the matrix is an output. `gate_up`: it has gate and up rows, and so may
/// have two global scales.
void check_matrix(const WeightMatrix& matrix, const WeightSpec& spec, std::int64_t rows, std::int64_t cols,
                  const char* op, const char* name, bool written = false, bool gate_up = false);

/// Bytes of rows with a fixed stride. Scales have one row per weight row; fp8_block one per 128.
struct Rows {
    std::byte* values = nullptr;
    std::byte* scales = nullptr;
    std::byte* global_scale = nullptr;  ///< nvfp4: the f32 of all these rows
    std::size_t value_stride = 0;
    std::size_t scale_stride = 0;
    std::int64_t count = 0;
};

/// All rows of a checked matrix.
Rows all_rows(const WeightMatrix& matrix);

/// The rows of a packed matrix by origin: [gate, up], or [all, none] of a plain matrix.
using Halves = std::array<Rows, 2>;

/// Gate and up rows of a checked matrix in the given order. Throws where `order` does not fit the layout, or where
/// fp8_block scales of gate and up rows share a block.
Halves split(const PackedLayout& layout, const WeightMatrix& matrix, RowOrder order, const char* op);

/// The 64 packed rows of one strip; null pointers are padding.
struct StripRows {
    std::array<std::byte*, 64> values{};
    std::array<std::byte*, 64> scales{};
};
StripRows strip_rows(const PackedLayout& layout, const Halves& halves, std::int64_t strip) noexcept;

}  // namespace tokamak::formats
