// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/plan_state.h"
#include "moe/cpu/scratch.h"
#include "moe/cuda/fused_moe.h"
#include "tokamak/moe/fused_moe.h"

namespace tokamak::moe {

/// The routing of a problem that routes, as an operator of its own.
inline RouteProblem route_problem(const FusedMoeProblem& p) {
    return {.max_tokens = p.max_tokens,
            .num_experts = p.num_experts,
            .top_k = p.top_k,
            .method = p.route->method,
            .renormalize = p.route->renormalize,
            .routed_scaling_factor = p.route->routed_scaling_factor,
            .num_groups = p.route->num_groups,
            .top_groups = p.route->top_groups,
            .logits_dtype = p.route->logits_dtype};
}

/// What a fused_moe plan holds besides its table.
struct FusedMoeState : detail::TypedState<FusedMoeProblem> {
    int local_experts = 0;
    PackedLayout gate_up;
    PackedLayout down;
    cpu::Scratch scratch;            ///< plans for the CPU
    Slice<std::int32_t> routed_ids;  ///< plans for the CPU that route or have batched experts: [max_tokens, top_k]
    Slice<float> routed_weights;
    cuda::FusedMoeCuda cuda;  ///< plans for a CUDA device
};

}  // namespace tokamak::moe
