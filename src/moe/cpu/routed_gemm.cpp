// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/routed_gemm.h"

#include <algorithm>

#include "moe/cpu/input_rows.h"
#include "moe/cpu/project.h"

namespace tokamak::moe::cpu {

template <class Acc>
void routed_gemm(const RoutedGemmState& state, const RoutedGemmArgs& args, std::int64_t tokens,
                 const Workspace& workspace) {
    const RoutedGemmProblem& problem = state.problem;
    const Scratch& scratch = state.scratch;
    const ExpertLookup lookup(args.expert_map, args.first_expert, problem.num_experts, state.local_experts);
    const Tensor none;
    const InputRule input{args.x, none, problem.act_dtype};
    const ExpertMatrices matrices{state.matrix, args.matrix, problem.act_dtype};
    const Combine combine{none, problem.apply_routing_weight ? args.weights : none, none, args.out};
    for (std::int64_t first = 0; first < tokens; first += scratch.chunk_tokens) {
        const std::int64_t count = std::min(scratch.chunk_tokens, tokens - first);
        const ExpertGroups groups = group_by_expert(scratch, workspace, lookup, args.ids, first, count);
        const Chunk chunk{scratch, workspace, groups, first, count, problem.top_k};
        project_and_combine(chunk, load_input_rows<Acc>(chunk, input), matrices, combine);
    }
}

template void routed_gemm<float>(const RoutedGemmState&, const RoutedGemmArgs&, std::int64_t, const Workspace&);
template void routed_gemm<double>(const RoutedGemmState&, const RoutedGemmArgs&, std::int64_t, const Workspace&);

}  // namespace tokamak::moe::cpu
