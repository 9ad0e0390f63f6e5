// SPDX-License-Identifier: Apache-2.0
// fused_moe calls that route from logits, beside the same calls with the ids and weights that moe::route gives.
#pragma once

#include <vector>

#include "moe/fused_moe_state.h"
#include "moe/moe_cases.h"

namespace tokamak::moe::test {

/// A rule with the sizes it goes with.
struct RuleCase {
    RouteRule rule;
    int num_experts;
    int top_k;
    bool bias = false;
};

inline std::vector<RuleCase> rule_cases() {
    const RouteRule softmax;
    RouteRule raw = softmax;
    raw.renormalize = false;
    raw.routed_scaling_factor = 2.5F;
    RouteRule sigmoid{.method = RouteMethod::sigmoid_grouped};
    RouteRule grouped{
        .method = RouteMethod::sigmoid_grouped, .routed_scaling_factor = 2.5F, .num_groups = 8, .top_groups = 4};
    RouteRule kept = grouped;  // all groups: none of them counts
    kept.top_groups = kept.num_groups;
    RouteRule pairs{.method = RouteMethod::sigmoid_grouped, .renormalize = false, .num_groups = 32, .top_groups = 3};
    return {{softmax, 7, 3},         {softmax, 257, 8},      {raw, 128, 16},        {softmax, 1, 1},
            {softmax, 1024, 32},     {sigmoid, 96, 6, true}, {sigmoid, 33, 5},      {grouped, 64, 8, true},
            {grouped, 256, 8, true}, {pairs, 64, 6},         {pairs, 320, 2, true}, {raw, 3, 3},
            {kept, 128, 8, true},    {raw, 256, 32},         {pairs, 256, 6, true}};
}

/// Inputs of a call, with the routes that belong to the logits.
struct LogitData {
    FusedMoeData data;
    OwnedTensor logits;
    OwnedTensor bias;

    [[nodiscard]] LogitData on(Device device) const {
        return {data.on(device), OwnedTensor::copy_of(logits, device), OwnedTensor::copy_of(bias, device)};
    }
    /// With ids and weights, for a problem without a route.
    [[nodiscard]] FusedMoeProblem plain_problem() const {
        FusedMoeProblem p = data.c.problem;
        p.route.reset();
        return p;
    }
    [[nodiscard]] FusedMoeArgs plain_args(std::int64_t tokens) const { return data.args(tokens); }
    [[nodiscard]] FusedMoeArgs args(std::int64_t tokens) const {
        FusedMoeArgs a = data.args(tokens);
        a.ids = a.weights = Tensor();
        a.logits = logits.view().first_rows(tokens);
        a.correction_bias = bias;
        return a;
    }
};

/// The routes in `data` are those of moe::route on the CPU.
inline LogitData logit_data(Rng& rng, const FusedMoeCase& c, bool with_bias) {
    const FusedMoeProblem& p = c.problem;
    const RouteRule& rule = *p.route;
    LogitData d{.data = random_data(rng, c),
                .logits = random_tensor(rng, rule.logits_dtype, {c.tokens, p.num_experts}, 4.0)};
    if (with_bias) d.bias = random_tensor(rng, DType::f32, {p.num_experts}, 0.5);
    RouteArgs args;
    args.tokens = c.tokens;
    args.logits = d.logits;
    args.correction_bias = d.bias;
    RouteResult routes = route(route_problem(p), args);
    d.data.routing.ids = std::move(routes.ids);
    d.data.routing.weights = std::move(routes.weights);
    return d;
}

/// A small layer for a rule.
inline FusedMoeCase logit_case(const RuleCase& rule, const WeightSpec& weights, std::int64_t tokens) {
    FusedMoeCase c;
    c.tokens = tokens;
    c.problem = {.max_tokens = tokens,
                 .hidden = 64,
                 .intermediate = 32,
                 .num_experts = rule.num_experts,
                 .num_local_experts = rule.num_experts > 8 ? rule.num_experts - 5 : 0,
                 .top_k = rule.top_k,
                 .weights = weights,
                 .route = rule.rule};
    c.placement = rule.num_experts > 8 ? Placement::scattered : Placement::all;
    return c;
}

}  // namespace tokamak::moe::test
