// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/input_rows.h"

#include <algorithm>
#include <type_traits>

#include "moe/cpu/activation.h"
#include "moe/cpu/elements.h"
#include "moe/cpu/parallel.h"

namespace tokamak::moe::cpu {
namespace {

/// The row times its routing weight, rounded as the activations are stored; the oracle does not round.
template <class Acc>
void weight_row(const InputRule& rule, Acc weight, Acc* row, std::int64_t cols) {
    for (std::int64_t i = 0; i < cols; ++i) {
        row[i] *= weight;
        if constexpr (std::is_same_v<Acc, float>)
            if (!rule.quantize) row[i] = round_to(rule.act_dtype, row[i]);
    }
}

}  // namespace

template <class Acc>
Rows<Acc> load_input_rows(const Chunk& chunk, const InputRule& rule) {
    const std::int64_t cols = rule.x.size(1);
    const bool per_route = rule.route_weights.present;
    const std::int32_t* const slots = chunk.groups.slots.data();
    const Rows<Acc> rows{Scratch::as<Acc>(chunk.scratch.x, chunk.workspace), pad_cols(cols),
                         per_route ? nullptr : slots, chunk.top_k};
    const std::int64_t count = per_route ? chunk.groups.routes() : chunk.tokens;
    parallel_for(count, chunk.scratch.threads, cols, [&](std::int64_t index, int) {
        const std::int64_t token = chunk.first_token + (per_route ? slots[index] / chunk.top_k : index);
        Acc* const row = rows.at(index);
        load_elements(rule.x.data, rule.x.dtype, row_begin(rule.x, token), cols, row);
        if (per_route) {
            const Tensor& weights = rule.route_weights;
            const std::int64_t at = row_begin(weights, token) + slots[index] % chunk.top_k;
            weight_row(rule, load_element<Acc>(weights.data, weights.dtype, at), row, cols);
        }
        if (rule.quantize) quantize_row(row, cols);
        std::fill(row + cols, row + rows.stride, Acc{0});
    });
    return rows;
}

template Rows<float> load_input_rows(const Chunk&, const InputRule&);
template Rows<double> load_input_rows(const Chunk&, const InputRule&);

}  // namespace tokamak::moe::cpu
