// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/project.h"

#include <algorithm>
#include <array>

#include "moe/cpu/elements.h"
#include "moe/cpu/parallel.h"

namespace tokamak::moe::cpu {
namespace {

/// A run of output columns that one weight block makes.
struct Columns {
    std::int64_t begin = 0;
    std::int64_t count = 0;
};

template <class Acc>
void add_bias(const Tensor& bias, std::int64_t expert, Columns columns, std::int64_t routes, Acc* sums) {
    if (!bias.present) return;
    std::array<Acc, kBlockRows> values;
    load_elements(bias.data, bias.dtype, row_begin(bias, expert) + columns.begin, columns.count, values.data());
    for (std::int64_t route = 0; route < routes; ++route)
        for (std::int64_t c = 0; c < columns.count; ++c)
            sums[route * kBlockRows + c] += values[static_cast<std::size_t>(c)];
}

template <class Acc>
void combine_token(const Chunk& chunk, const Combine& combine, std::int64_t token, Columns columns, const Acc* sums) {
    const std::int64_t row = chunk.first_token + token;
    std::array<Acc, kBlockRows> total{};
    bool live = !combine.live_rows_only;
    for (std::int64_t j = 0; j < chunk.top_k; ++j) {
        const std::int64_t position = chunk.groups.positions[static_cast<std::size_t>(token * chunk.top_k + j)];
        if (position < 0) continue;
        live = true;
        const Tensor& weights = combine.weights;
        const Acc weight =
            weights.present ? load_element<Acc>(weights.data, weights.dtype, row_begin(weights, row) + j) : Acc{1};
        for (std::size_t c = 0; c < kBlockRows; ++c)
            total[c] += weight * sums[position * kBlockRows + static_cast<std::int64_t>(c)];
    }
    if (!live) return;
    const Tensor& out = combine.out;
    for (std::int64_t c = 0; c < columns.count; ++c) {
        const std::int64_t col = columns.begin + c;
        Acc value = total[static_cast<std::size_t>(c)];
        if (combine.added.present)
            value += load_element<Acc>(combine.added.data, combine.added.dtype, row_begin(combine.added, row) + col);
        if (combine.accumulate) value += load_element<Acc>(out.data, out.dtype, row_begin(out, row) + col);
        store_element(out.data, out.dtype, row_begin(out, row) + col, value);
    }
}

}  // namespace

std::int64_t block_cost(const Chunk& chunk, const PackedLayout& layout) noexcept {
    return (chunk.groups.routes() + 1) * layout.cols;
}

template <class Acc>
void project_and_combine(const Chunk& chunk, const Rows<Acc>& x, const ExpertMatrices& matrices,
                         const Combine& combine) {
    const Scratch& scratch = chunk.scratch;
    const std::int64_t rows = matrices.layout.rows;
    const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    parallel_for(blocks, scratch.threads, block_cost(chunk, matrices.layout), [&](std::int64_t block, int thread) {
        const Columns columns{block * kBlockRows, std::min<std::int64_t>(kBlockRows, rows - block * kBlockRows)};
        auto* const weights = scratch.of_thread<Acc>(scratch.weights, chunk.workspace, thread);
        auto* const sums = scratch.of_thread<Acc>(scratch.sums, chunk.workspace, thread);
        chunk.groups.for_each([&](std::int64_t expert, std::int64_t begin, std::int64_t end) {
            Acc* const expert_sums = sums + begin * kBlockRows;
            multiply_block(matrices, expert, columns.begin, x, begin, end, weights, expert_sums);
            add_bias(combine.bias, expert, columns, end - begin, expert_sums);
        });
        for (std::int64_t token = 0; token < chunk.tokens; ++token) combine_token(chunk, combine, token, columns, sums);
    });
}

template void project_and_combine(const Chunk&, const Rows<float>&, const ExpertMatrices&, const Combine&);
template void project_and_combine(const Chunk&, const Rows<double>&, const ExpertMatrices&, const Combine&);

}  // namespace tokamak::moe::cpu
