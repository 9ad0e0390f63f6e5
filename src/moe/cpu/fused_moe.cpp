// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/fused_moe.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "moe/cpu/activation.h"
#include "moe/cpu/elements.h"
#include "moe/cpu/input_rows.h"
#include "moe/cpu/parallel.h"
#include "moe/cpu/project.h"

namespace tokamak::moe::cpu {
namespace {

/// Half of a packed gate/up block: gate rows come first, the up rows of the same columns after them.
constexpr std::int64_t kGateRows = kBlockRows / 2;

/// How an activation is stored between the GEMMs. The oracle keeps it as it is, and quantisation replaces rounding.
template <class Acc>
Acc round_activation(const FusedMoeProblem& problem, Acc value) noexcept {
    if constexpr (std::is_same_v<Acc, float>)
        return problem.quantize_activations ? value : round_to(problem.act_dtype, value);
    else
        return value;
}

/// What int4 weights are rounded to: where activations are e4m3, so are their codes, and nothing is rounded.
DType operand_dtype(const FusedMoeProblem& problem) noexcept {
    return problem.quantize_activations ? DType::e4m3 : problem.act_dtype;
}

/// Activates the sums of one expert and one block of intermediate columns.
template <class Acc>
void activate_block(const FusedMoeProblem& problem, const Tensor& bias, std::int64_t expert, std::int64_t first_col,
                    std::int64_t begin, std::int64_t end, const Acc* sums, const Rows<Acc>& intermediate) {
    const std::int64_t cols = std::min(kGateRows, problem.intermediate - first_col);
    std::array<Acc, kGateRows> gate_bias{};
    std::array<Acc, kGateRows> up_bias{};
    if (bias.present) {
        const std::int64_t gate = row_begin(bias, expert) + first_col;
        load_elements(bias.data, bias.dtype, gate, cols, gate_bias.data());
        load_elements(bias.data, bias.dtype, gate + problem.intermediate, cols, up_bias.data());
    }
    for (std::int64_t position = begin; position < end; ++position) {
        const Acc* const products = sums + (position - begin) * kBlockRows;
        Acc* const row = intermediate.at(position);
        for (std::int64_t c = 0; c < cols; ++c) {
            const Acc gate = products[c] + gate_bias[static_cast<std::size_t>(c)];
            const Acc up = products[kGateRows + c] + up_bias[static_cast<std::size_t>(c)];
            row[first_col + c] = round_activation(problem, activate(problem.activation, gate, up));
        }
        if (first_col + cols == problem.intermediate)
            std::fill(row + problem.intermediate, row + intermediate.stride, Acc{0});
    }
}

/// Gate/up GEMM and activation of a chunk: one row of `intermediate` per kept route.
template <class Acc>
void make_intermediate(const FusedMoeState& state, const FusedMoeArgs& args, const Chunk& chunk, const Rows<Acc>& x,
                       const Rows<Acc>& intermediate) {
    const Scratch& scratch = chunk.scratch;
    const ExpertMatrices matrices{state.gate_up, args.gate_up, operand_dtype(state.problem)};
    const std::int64_t blocks = (state.problem.intermediate + kGateRows - 1) / kGateRows;
    parallel_for(blocks, scratch.threads, block_cost(chunk, state.gate_up), [&](std::int64_t block, int thread) {
        auto* const weights = scratch.of_thread<Acc>(scratch.weights, chunk.workspace, thread);
        auto* const sums = scratch.of_thread<Acc>(scratch.sums, chunk.workspace, thread);
        chunk.groups.for_each([&](std::int64_t expert, std::int64_t begin, std::int64_t end) {
            multiply_block(matrices, expert, block * kBlockRows, x, begin, end, weights, sums);
            activate_block(state.problem, args.gate_up_bias, expert, block * kGateRows, begin, end, sums, intermediate);
        });
    });
    if (!state.problem.quantize_activations) return;
    parallel_for(chunk.groups.routes(), scratch.threads, state.problem.intermediate, [&](std::int64_t position, int) {
        quantize_row(intermediate.at(position), state.problem.intermediate);
    });
}

}  // namespace

template <class Acc>
void fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, std::int64_t tokens, const Workspace& workspace) {
    const FusedMoeProblem& problem = state.problem;
    const Scratch& scratch = state.scratch;
    const ExpertLookup lookup(args.expert_map, args.first_expert, problem.num_experts, state.local_experts);
    const Tensor none;
    const auto weights_at = [&](RoutingWeight place) -> const Tensor& {
        return problem.routing_weight == place ? args.weights : none;
    };
    const InputRule input{args.x, weights_at(RoutingWeight::input), problem.act_dtype, problem.quantize_activations};
    const Combine combine{args.down_bias, weights_at(RoutingWeight::output), args.shared_output,
                          args.out,       args.accumulate_into_out,          problem.batched_experts};
    const Rows<Acc> intermediate{Scratch::as<Acc>(scratch.intermediate, workspace), pad_cols(problem.intermediate)};
    for (std::int64_t first = 0; first < tokens; first += scratch.chunk_tokens) {
        const std::int64_t count = std::min(scratch.chunk_tokens, tokens - first);
        const ExpertGroups groups = group_by_expert(scratch, workspace, lookup, args.ids, first, count);
        const Chunk chunk{scratch, workspace, groups, first, count, problem.top_k};
        const Rows<Acc> x = load_input_rows<Acc>(chunk, input);
        make_intermediate(state, args, chunk, x, intermediate);
        project_and_combine(chunk, intermediate, {state.down, args.down, operand_dtype(problem)}, combine);
    }
}

template void fused_moe<float>(const FusedMoeState&, const FusedMoeArgs&, std::int64_t, const Workspace&);
template void fused_moe<double>(const FusedMoeState&, const FusedMoeArgs&, std::int64_t, const Workspace&);

}  // namespace tokamak::moe::cpu
