// SPDX-License-Identifier: Apache-2.0
#include "mla/cpu/multiply.h"

#include "core/simd.h"

namespace tokamak::mla::cpu {
namespace {

/// One tile of c. The constant loops unroll, so that `sum` lives in vector registers.
template <class Real>
TOKAMAK_INLINE void tile(std::int64_t k, Strided<Real> a, const Real* b, std::int64_t b_row, Real* c,
                         std::int64_t c_row) {
    Real sum[kRowTile][kColumnTile];
    for (int i = 0; i < kRowTile; ++i)
        for (int j = 0; j < kColumnTile; ++j) sum[i][j] = c[i * c_row + j];
    for (std::int64_t p = 0; p < k; ++p) {
        for (int i = 0; i < kRowTile; ++i) {
            const Real x = a.data[i * a.row + p * a.column];
            for (int j = 0; j < kColumnTile; ++j) sum[i][j] += x * b[p * b_row + j];
        }
    }
    for (int i = 0; i < kRowTile; ++i)
        for (int j = 0; j < kColumnTile; ++j) c[i * c_row + j] = sum[i][j];
}

template <class Real>
TOKAMAK_INLINE void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Strided<Real> a, const Real* b,
                             std::int64_t b_row, Real* c, std::int64_t c_row) {
    for (std::int64_t j = 0; j < n; j += kColumnTile)
        for (std::int64_t i = 0; i < m; i += kRowTile)
            tile(k, Strided<Real>{a.data + i * a.row, a.row, a.column}, b + j, b_row, c + i * c_row + j, c_row);
}

}  // namespace

TOKAMAK_CPU_CLONES void multiply_add(std::int64_t m, std::int64_t n, std::int64_t k, Strided<float> a, const float* b,
                                     std::int64_t b_row, float* c, std::int64_t c_row) {
    multiply(m, n, k, a, b, b_row, c, c_row);
}

TOKAMAK_CPU_CLONES void multiply_add(std::int64_t m, std::int64_t n, std::int64_t k, Strided<double> a, const double* b,
                                     std::int64_t b_row, double* c, std::int64_t c_row) {
    multiply(m, n, k, a, b, b_row, c, c_row);
}

}  // namespace tokamak::mla::cpu
