// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tokamak::mla::cpu {

/// A matrix whose element (i, j) is data[i * row + j * column].
template <class Real>
struct Strided {
    const Real* data;
    std::int64_t row;
    std::int64_t column;
};

/// One tile of c: enough independent sums to hide the latency of an FMA, few enough for the registers. (g++ 12 leaves
/// tiles of 16 columns unvectorised.)
inline constexpr std::int64_t kRowTile = 4;
inline constexpr std::int64_t kColumnTile = 32;

/// c[m x n] += a[m x k] * b[k x n], b and c row-major with the given row strides. m is a multiple of kRowTile, n of
/// kColumnTile. Every element is summed in ascending k by one accumulator that starts from c, whatever m and n.
void multiply_add(std::int64_t m, std::int64_t n, std::int64_t k, Strided<float> a, const float* b, std::int64_t b_row,
                  float* c, std::int64_t c_row);
void multiply_add(std::int64_t m, std::int64_t n, std::int64_t k, Strided<double> a, const double* b,
                  std::int64_t b_row, double* c, std::int64_t c_row);

constexpr std::int64_t round_up(std::int64_t value, std::int64_t step) noexcept {
    return (value + step - 1) / step * step;
}

}  // namespace tokamak::mla::cpu
