// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/dot_kernel.h"

#include "core/simd.h"

// Without the pragma g++ unrolls the lanes and then finds no vectors in them; clang does, and warns where it cannot.
#if defined(_OPENMP) && !defined(__clang__)
#define TOKAMAK_MOE_SIMD _Pragma("omp simd")
#else
#define TOKAMAK_MOE_SIMD
#endif

namespace tokamak::moe::cpu {
namespace {

/// Sums of one 64-byte vector, as a tree.
template <class Acc, int kLanes>
TOKAMAK_INLINE Acc sum_lanes(Acc (&lanes)[kLanes]) {
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    return lanes[0];
}

/// kRows * kTokens independent vectors of partial sums stay in registers and hide the latency of the multiply-adds.
template <int kRows, int kTokens, class Acc>
TOKAMAK_INLINE void add_dots(const Acc* weights, std::int64_t cols, const Acc* const (&x)[kTokens],
                             Acc* const (&sums)[kTokens]) {
    constexpr int kLanes = 64 / sizeof(Acc);
    for (int row = 0; row < kBlockRows; row += kRows) {
        Acc lanes[kRows][kTokens][kLanes] = {};
        for (std::int64_t col = 0; col < cols; col += kLanes)
            for (int r = 0; r < kRows; ++r)
                for (int t = 0; t < kTokens; ++t) {
                    const Acc* const w = weights + (row + r) * kPieceCols + col;
                    TOKAMAK_MOE_SIMD
                    for (int l = 0; l < kLanes; ++l) lanes[r][t][l] += w[l] * x[t][col + l];
                }
        for (int r = 0; r < kRows; ++r)
            for (int t = 0; t < kTokens; ++t) sums[t][row + r] += sum_lanes(lanes[r][t]);
    }
}

}  // namespace

TOKAMAK_CPU_CLONES void add_dots_tile(const float* weights, std::int64_t cols, const float* const* x,
                                      float* const* sums) {
    const float* const rows[kTileTokens] = {x[0], x[1], x[2], x[3]};
    float* const outs[kTileTokens] = {sums[0], sums[1], sums[2], sums[3]};
    add_dots<2, kTileTokens>(weights, cols, rows, outs);
}

TOKAMAK_CPU_CLONES void add_dots_tile(const double* weights, std::int64_t cols, const double* const* x,
                                      double* const* sums) {
    const double* const rows[kTileTokens] = {x[0], x[1], x[2], x[3]};
    double* const outs[kTileTokens] = {sums[0], sums[1], sums[2], sums[3]};
    add_dots<2, kTileTokens>(weights, cols, rows, outs);
}

TOKAMAK_CPU_CLONES void add_dots_single(const float* weights, std::int64_t cols, const float* x, float* sums) {
    const float* const rows[1] = {x};
    float* const outs[1] = {sums};
    add_dots<4, 1>(weights, cols, rows, outs);
}

TOKAMAK_CPU_CLONES void add_dots_single(const double* weights, std::int64_t cols, const double* x, double* sums) {
    const double* const rows[1] = {x};
    double* const outs[1] = {sums};
    add_dots<4, 1>(weights, cols, rows, outs);
}

}  // namespace tokamak::moe::cpu
