// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tokamak::moe::cpu {

/// Weight rows that are multiplied at a time; 16 packed rows of a gate/up matrix are 8 gate rows, then their up rows.
inline constexpr int kBlockRows = 16;
/// Columns of a block of weight rows that are decoded at a time. Sums run over such pieces in ascending order, so that
/// their rounding depends on the matrix alone.
inline constexpr std::int64_t kPieceCols = 1024;
/// Columns of rows in memory are padded with zeros to a multiple of this.
inline constexpr std::int64_t kColPadding = 16;
/// Rows of activations that share one pass over a block of weights.
inline constexpr int kTileTokens = 4;

constexpr std::int64_t pad_cols(std::int64_t cols) noexcept {
    return (cols + kColPadding - 1) / kColPadding * kColPadding;
}

/// sums[t][r] += dot(weights row r, x[t]) over `cols` columns, a multiple of kColPadding, for r < kBlockRows. Weight
/// rows are kPieceCols apart. Both functions give the same bits for a row, whatever its neighbours.
void add_dots_tile(const float* weights, std::int64_t cols, const float* const* x, float* const* sums);
void add_dots_tile(const double* weights, std::int64_t cols, const double* const* x, double* const* sums);
void add_dots_single(const float* weights, std::int64_t cols, const float* x, float* sums);
void add_dots_single(const double* weights, std::int64_t cols, const double* x, double* sums);

}  // namespace tokamak::moe::cpu
