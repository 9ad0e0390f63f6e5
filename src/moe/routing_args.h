// SPDX-License-Identifier: Apache-2.0
// The routing arguments that the multiplying operators share: which experts a token goes to, with which weights, and
// where those experts live.
#pragma once

#include <cstdint>

#include "tokamak/moe/route.h"
#include "tokamak/tensor.h"

namespace tokamak::moe {

/// Sizes that a problem fixes, `local_experts` resolved.
struct RoutingShape {
    const char* op = "";
    Device device;
    int num_experts = 0;
    int local_experts = 0;
    int top_k = 0;
    bool weighted = true;  ///< routing weights are needed; where not, they are allowed and ignored
    bool routed = false;   ///< the operator makes ids and weights itself: they must be absent
};

/// Views into the arguments of one call.
struct RoutingArgs {
    std::int64_t tokens = 0;
    const Tensor& num_tokens;
    const Tensor& ids;
    const Tensor& weights;
    const Tensor& expert_map;
    int first_expert = 0;
};

/// Experts, top_k and the local count of a problem.
void check_routing_problem(const char* op, int num_experts, int num_local_experts, int top_k);
/// 0 stands for all.
inline int resolve_local_experts(int num_experts, int num_local_experts) noexcept {
    return num_local_experts == 0 ? num_experts : num_local_experts;
}

/// Shapes, dtypes, devices and the expert range. Reads no device data.
void check_routing_args(const RoutingShape& shape, const RoutingArgs& args);

/// Routing weights alone: there where they are needed, else allowed and ignored.
void check_routing_weights(const RoutingShape& shape, std::int64_t tokens, const Tensor& weights);

/// What routing inside a call starts from.
struct ScoreArgs {
    std::int64_t tokens = 0;
    const Tensor& logits;
    const Tensor& correction_bias;
};
void check_scores(const char* op, Device device, const RouteProblem& problem, const ScoreArgs& args);

/// PlanOptions::check_ids on the CPU: throws for the first id outside [0, num_experts), naming token, slot and id.
void check_ids(const char* op, const Tensor& ids, std::int64_t tokens, int num_experts);

}  // namespace tokamak::moe
