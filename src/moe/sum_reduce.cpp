// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/sum_reduce.h"

#include <limits>

#include "core/check.h"
#include "core/choose.h"
#include "core/operator_call.h"
#include "moe/cpu/parallel.h"
#include "moe/cpu/sum_reduce.h"
#include "moe/cuda/small/small_operators.h"
#include "moe/problem_checks.h"
#include "moe/routing_args.h"

namespace tokamak::moe {
namespace {

constexpr const char* kOp = "sum_reduce";

struct SumReduceState : detail::TypedState<SumReduceProblem> {
    int threads = 1;
};

void check_problem(const SumReduceProblem& p, Device device) {
    check_max_tokens(kOp, p.max_tokens);
    check::range(kOp, "top_k", p.top_k, 0, kMaxExperts);
    check::range(kOp, "hidden", p.hidden, 1, std::numeric_limits<std::int64_t>::max());
    check_finite(kOp, "routed_scaling_factor", p.routed_scaling_factor);
    check::dtype(kOp, "dtype", p.dtype, {DType::bf16, DType::f16, DType::f32});
    check_product(kOp, "max_tokens * (top_k + 1) * hidden * 4 bytes", {p.max_tokens, p.top_k + 1, p.hidden, 4});
    if (device.is_cuda())
        cuda::require_small(kOp, device);
    else
        require_cpu(kOp, device);
}

void check_args(const SumReduceState& state, const SumReduceArgs& args, const Workspace& workspace) {
    const SumReduceProblem& p = state.problem;
    check::tokens(kOp, args.tokens, state.max_tokens);
    check::num_tokens(args.num_tokens, kOp, state.device);
    check::tensor(args.y, {.op = kOp,
                           .name = "y",
                           .dtypes = {p.dtype},
                           .shape = {args.tokens, p.top_k, p.hidden},
                           .device = state.device,
                           .contiguous_from = 2});
    check::optional_tensor(args.weights, {.op = kOp,
                                          .name = "weights",
                                          .dtypes = {DType::f32, DType::bf16},
                                          .shape = {args.tokens, p.top_k},
                                          .device = state.device});
    check::tensor(args.out, {.op = kOp,
                             .name = "out",
                             .dtypes = {p.dtype},
                             .shape = {args.tokens, p.hidden},
                             .device = state.device,
                             .leading_rows = true,
                             .written = true});
    state.layout.check(workspace, state.device, kOp);
    check::disjoint(kOp, {"out", args.out}, {{"y", args.y}, {"weights", args.weights}, {"num_tokens", args.num_tokens}},
                    workspace, {});
}

}  // namespace

Support supports(const SumReduceProblem& problem, Device device) {
    return support_of([&] { check_problem(problem, device); });
}

SumReducePlan make_plan(const SumReduceProblem& problem, Device device, const PlanOptions& options) {
    check_problem(problem, device);
    auto state = std::make_shared<SumReduceState>();
    state->problem = problem;
    if (device.is_cuda()) {
        cuda::plan_small(*state, device, options);
        return detail::to_plan<SumReduceProblem>(std::shared_ptr<const SumReduceState>(std::move(state)));
    }
    state->threads = cpu::thread_limit();
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    return detail::to_plan<SumReduceProblem>(std::shared_ptr<const SumReduceState>(std::move(state)));
}

void run(const SumReducePlan& plan, const SumReduceArgs& args, const Workspace& workspace, Stream stream) {
    const auto& state = detail::state_of<SumReduceState>(plan);
    check_args(state, args, workspace);
    if (state.device.is_cuda()) return cuda::run_small(state, args, stream);
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (is_oracle(state, args.tokens))
        cpu::sum_reduce<double>(state.problem, args, tokens, state.threads);
    else
        cpu::sum_reduce<float>(state.problem, args, tokens, state.threads);
}

OwnedTensor sum_reduce(const SumReduceProblem& problem, SumReduceArgs args, Device device, const Workspace& workspace,
                       Stream stream) {
    return sum_reduce(make_plan(problem, device), std::move(args), workspace, stream);
}

OwnedTensor sum_reduce(const SumReducePlan& plan, SumReduceArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const SumReduceProblem& p = plan.problem();
    OwnedTensor out = output_for(args.out, p.dtype, {args.tokens, p.hidden}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return out;
}

}  // namespace tokamak::moe
