// SPDX-License-Identifier: Apache-2.0
#include "moe/routing_args.h"

#include "core/check.h"
#include "moe/cpu/elements.h"
#include "moe/problem_checks.h"

namespace tokamak::moe {

void check_routing_problem(const char* op, int num_experts, int num_local_experts, int top_k) {
    check::range(op, "num_experts", num_experts, 1, kMaxExperts);
    check::range(op, "num_local_experts", num_local_experts, 0, num_experts);
    check::range(op, "top_k", top_k, 1, kMaxTopK);
}

namespace {

void check_routes(const RoutingShape& shape, const RoutingArgs& args) {
    const char* op = shape.op;
    if (shape.routed) {
        check::absent(args.ids, op, "ids", "where the problem has a `route`");
        check::absent(args.weights, op, "weights", "where the problem has a `route`");
        return;
    }
    check::tensor(args.ids, {.op = op,
                             .name = "ids",
                             .dtypes = {DType::i32, DType::i64},
                             .shape = {args.tokens, shape.top_k},
                             .device = shape.device});
    check_routing_weights(shape, args.tokens, args.weights);
}

}  // namespace

void check_routing_weights(const RoutingShape& shape, std::int64_t tokens, const Tensor& weights) {
    const check::Expect expected = {.op = shape.op,
                                    .name = "weights",
                                    .dtypes = {DType::f32, DType::bf16},
                                    .shape = {tokens, shape.top_k},
                                    .device = shape.device};
    if (shape.weighted)
        check::tensor(weights, expected);
    else
        check::optional_tensor(weights, expected);
}

void check_routing_args(const RoutingShape& shape, const RoutingArgs& args) {
    const char* op = shape.op;
    check::num_tokens(args.num_tokens, op, shape.device);
    check_routes(shape, args);
    const bool mapped = check::optional_tensor(args.expert_map, {.op = op,
                                                                 .name = "expert_map",
                                                                 .dtypes = {DType::i32},
                                                                 .shape = {shape.num_experts},
                                                                 .device = shape.device,
                                                                 .contiguous_from = 0});
    if (mapped && args.first_expert != 0)
        invalid("{}: `first_expert` is {}, expected 0 where `expert_map` is given", op, args.first_expert);
    if (!mapped) check::range(op, "first_expert", args.first_expert, 0, shape.num_experts - shape.local_experts);
}

void check_scores(const char* op, Device device, const RouteProblem& problem, const ScoreArgs& args) {
    check::tensor(args.logits, {.op = op,
                                .name = "logits",
                                .dtypes = {problem.logits_dtype},
                                .shape = {args.tokens, problem.num_experts},
                                .device = device});
    if (problem.method == RouteMethod::softmax)
        check::absent(args.correction_bias, op, "correction_bias", "for the softmax method");
    check::optional_tensor(args.correction_bias, {.op = op,
                                                  .name = "correction_bias",
                                                  .dtypes = {DType::f32},
                                                  .shape = {problem.num_experts},
                                                  .device = device,
                                                  .contiguous_from = 0});
}

void check_ids(const char* op, const Tensor& ids, std::int64_t tokens, int num_experts) {
    for (std::int64_t token = 0; token < tokens; ++token)
        for (std::int64_t slot = 0; slot < ids.size(1); ++slot) {
            const std::int64_t id = cpu::load_id(ids, token, slot);
            if (id < 0 || id >= num_experts)
                invalid("{}: `ids` of token {}, slot {} is {}, expected 0 to {}", op, token, slot, id, num_experts - 1);
        }
}

}  // namespace tokamak::moe
