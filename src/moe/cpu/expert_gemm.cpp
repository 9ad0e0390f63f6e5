// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/expert_gemm.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "core/simd.h"
#include "formats/scalar.h"

namespace tokamak::moe::cpu {
namespace {

TOKAMAK_CPU_CLONES void round_to_bf16(float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = scalar::round_to_bf16(values[i]);
}

TOKAMAK_CPU_CLONES void round_to_f16(float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = scalar::f16_to_float(scalar::float_to_f16(values[i]));
}

void round_operands(const ExpertMatrices& matrices, float* values, std::int64_t count) {
    if (matrices.layout.spec.format != WeightFormat::int4) return;
    if (matrices.operand_dtype == DType::bf16) round_to_bf16(values, count);
    if (matrices.operand_dtype == DType::f16) round_to_f16(values, count);
}

/// Decodes columns [col, col + cols) of kBlockRows packed rows; zeros up to the padded width.
template <class Acc>
void decode_block(const ExpertMatrices& matrices, std::int64_t expert, std::int64_t first_row, std::int64_t col,
                  std::int64_t cols, Acc* weights) {
    for (std::int64_t r = 0; r < kBlockRows; ++r) {
        Acc* const row = weights + r * kPieceCols;
        if constexpr (std::is_same_v<Acc, float>) {
            decode_packed_row(matrices.layout, matrices.of(expert), first_row + r, col, cols, row);
            round_operands(matrices, row, cols);
        } else {
            std::array<float, kPieceCols> decoded;
            decode_packed_row(matrices.layout, matrices.of(expert), first_row + r, col, cols, decoded.data());
            std::copy_n(decoded.data(), cols, row);
        }
        std::fill(row + cols, row + pad_cols(cols), Acc{0});
    }
}

}  // namespace

template <class Acc>
void multiply_block(const ExpertMatrices& matrices, std::int64_t expert, std::int64_t first_row, const Rows<Acc>& x,
                    std::int64_t begin, std::int64_t end, Acc* weights, Acc* sums) {
    std::fill_n(sums, (end - begin) * kBlockRows, Acc{0});
    for (std::int64_t col = 0; col < matrices.layout.cols; col += kPieceCols) {
        const std::int64_t cols = std::min(kPieceCols, matrices.layout.cols - col);
        decode_block(matrices, expert, first_row, col, cols, weights);
        std::int64_t position = begin;
        for (; position + kTileTokens <= end; position += kTileTokens) {
            std::array<const Acc*, kTileTokens> rows;
            std::array<Acc*, kTileTokens> outs;
            for (std::int64_t t = 0; t < kTileTokens; ++t) {
                rows[static_cast<std::size_t>(t)] = x.of_position(position + t) + col;
                outs[static_cast<std::size_t>(t)] = sums + (position + t - begin) * kBlockRows;
            }
            add_dots_tile(weights, pad_cols(cols), rows.data(), outs.data());
        }
        for (; position < end; ++position)
            add_dots_single(weights, pad_cols(cols), x.of_position(position) + col,
                            sums + (position - begin) * kBlockRows);
    }
}

template void multiply_block(const ExpertMatrices&, std::int64_t, std::int64_t, const Rows<float>&, std::int64_t,
                             std::int64_t, float*, float*);
template void multiply_block(const ExpertMatrices&, std::int64_t, std::int64_t, const Rows<double>&, std::int64_t,
                             std::int64_t, double*, double*);

}  // namespace tokamak::moe::cpu
