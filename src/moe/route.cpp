// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/route.h"

#include "core/check.h"
#include "core/choose.h"
#include "core/operator_call.h"
#include "moe/cpu/parallel.h"
#include "moe/cpu/route.h"
#include "moe/cuda/small/small_operators.h"
#include "moe/problem_checks.h"
#include "moe/routing_args.h"

namespace tokamak::moe {
namespace {

constexpr const char* kOp = "route";

struct RouteState : detail::TypedState<RouteProblem> {
    int threads = 1;
};

void check_groups(const RouteProblem& p) {
    check::range(kOp, "num_groups", p.num_groups, 1, p.num_experts);
    check::range(kOp, "top_groups", p.top_groups, 1, p.num_groups);
    if (p.method == RouteMethod::softmax) {
        if (p.num_groups != 1) invalid("{}: `num_groups` is {}, expected 1 for the softmax method", kOp, p.num_groups);
        return;
    }
    if (p.num_experts % p.num_groups != 0)
        invalid("{}: `num_groups` is {}, expected a divisor of num_experts = {}", kOp, p.num_groups, p.num_experts);
    const int size = p.num_experts / p.num_groups;
    if (p.num_groups > 1 && size < 2)
        invalid("{}: `num_groups` is {}, expected groups of at least two of the {} experts", kOp, p.num_groups,
                p.num_experts);
    if (p.top_groups * size < p.top_k)
        invalid("{}: `top_k` is {}, expected at most the {} experts of `top_groups` = {} groups", kOp, p.top_k,
                p.top_groups * size, p.top_groups);
}

void check_problem(const RouteProblem& p, Device device) {
    check_max_tokens(kOp, p.max_tokens);
    check::range(kOp, "num_experts", p.num_experts, 1, kMaxExperts);
    check::range(kOp, "top_k", p.top_k, 1, p.num_experts);
    check_groups(p);
    check_finite(kOp, "routed_scaling_factor", p.routed_scaling_factor);
    check::dtype(kOp, "logits_dtype", p.logits_dtype, {DType::f32, DType::bf16, DType::f16});
    check::dtype(kOp, "weights_dtype", p.weights_dtype, {DType::f32, DType::bf16});
    check::dtype(kOp, "ids_dtype", p.ids_dtype, {DType::i32, DType::i64});
    check_product(kOp, "max_tokens * num_experts * 8 bytes", {p.max_tokens, p.num_experts, 8});
    if (device.is_cuda())
        cuda::require_small(kOp, device);
    else
        require_cpu(kOp, device);
}

void check_args(const RouteState& state, const RouteArgs& args, const Workspace& workspace) {
    const RouteProblem& p = state.problem;
    check::tokens(kOp, args.tokens, state.max_tokens);
    check::num_tokens(args.num_tokens, kOp, state.device);
    check_scores(kOp, state.device, p, {args.tokens, args.logits, args.correction_bias});
    const auto output = [&](const char* name, const Tensor& tensor, DType dtype) {
        check::tensor(tensor, {.op = kOp,
                               .name = name,
                               .dtypes = {dtype},
                               .shape = {args.tokens, p.top_k},
                               .device = state.device,
                               .leading_rows = true,
                               .written = true});
    };
    output("weights", args.weights, p.weights_dtype);
    output("ids", args.ids, p.ids_dtype);
    state.layout.check(workspace, state.device, kOp);
    const check::NamedArg logits{"logits", args.logits};
    const check::NamedArg bias{"correction_bias", args.correction_bias};
    const check::NamedArg count{"num_tokens", args.num_tokens};
    check::disjoint(kOp, {"weights", args.weights}, {logits, bias, count, {"ids", args.ids}}, workspace, {});
    check::disjoint(kOp, {"ids", args.ids}, {logits, bias, count}, workspace, {});
}

}  // namespace

Support supports(const RouteProblem& problem, Device device) {
    return support_of([&] { check_problem(problem, device); });
}

RoutePlan make_plan(const RouteProblem& problem, Device device, const PlanOptions& options) {
    check_problem(problem, device);
    auto state = std::make_shared<RouteState>();
    state->problem = problem;
    if (device.is_cuda()) {
        cuda::plan_small(*state, device, options);
        return detail::to_plan<RouteProblem>(std::shared_ptr<const RouteState>(std::move(state)));
    }
    state->threads = cpu::thread_limit();
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    return detail::to_plan<RouteProblem>(std::shared_ptr<const RouteState>(std::move(state)));
}

void run(const RoutePlan& plan, const RouteArgs& args, const Workspace& workspace, Stream stream) {
    const auto& state = detail::state_of<RouteState>(plan);
    check_args(state, args, workspace);
    if (state.device.is_cuda()) return cuda::run_small(state, args, stream);
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (is_oracle(state, args.tokens))
        cpu::route<double>(state.problem, args, tokens, state.threads);
    else
        cpu::route<float>(state.problem, args, tokens, state.threads);
}

RouteResult route(const RouteProblem& problem, RouteArgs args, Device device, const Workspace& workspace,
                  Stream stream) {
    return route(make_plan(problem, device), std::move(args), workspace, stream);
}

RouteResult route(const RoutePlan& plan, RouteArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const RouteProblem& p = plan.problem();
    RouteResult result;
    result.weights = output_for(args.weights, p.weights_dtype, {args.tokens, p.top_k}, plan.device());
    result.ids = output_for(args.ids, p.ids_dtype, {args.tokens, p.top_k}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return result;
}

}  // namespace tokamak::moe
