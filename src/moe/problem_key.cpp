// SPDX-License-Identifier: Apache-2.0
#include "moe/problem_key.h"

#include <fmt/format.h>

namespace tokamak::moe {
namespace {

const char* name_of(ActivationKind kind) {
    switch (kind) {
        case ActivationKind::swiglu_clamped: return "swiglu_clamped";
        case ActivationKind::gpt_oss: return "gpt_oss";
        default: return "swiglu";
    }
}

const char* name_of(RoutingWeight weight) {
    switch (weight) {
        case RoutingWeight::input: return "input";
        case RoutingWeight::none: return "none";
        default: return "output";
    }
}

/// Routing inside the call is other work by other variants.
std::string route_of(const FusedMoeProblem& p) {
    if (!p.route) return "";
    if (p.route->method == RouteMethod::softmax)
        return fmt::format(" route=softmax/{}", to_string(p.route->logits_dtype));
    return fmt::format(" route=sigmoid/{}/{}/{}", p.route->num_groups, p.route->top_groups,
                       to_string(p.route->logits_dtype));
}

}  // namespace

std::string problem_key(const FusedMoeProblem& p) {
    const int local = p.num_local_experts > 0 ? p.num_local_experts : p.num_experts;
    return fmt::format(
        "experts={}/{} hidden={} intermediate={} top_k={} weights={} activation={} weight={}{} act={} out={}{}{}",
        local, p.num_experts, p.hidden, p.intermediate, p.top_k, to_string(p.weights), name_of(p.activation.kind),
        name_of(p.routing_weight), p.quantize_activations ? " quantized" : "", to_string(p.act_dtype),
        to_string(p.out_dtype), route_of(p), p.batched_experts ? " batched" : "");
}

}  // namespace tokamak::moe
