// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/routed_gemm.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/choose.h"
#include "core/operator_call.h"
#include "moe/cpu/plan_cpu.h"
#include "moe/cpu/routed_gemm.h"
#include "moe/problem_checks.h"
#include "moe/routed_gemm_state.h"
#include "moe/routing_args.h"

namespace tokamak::moe {
namespace {

constexpr const char* kOp = "routed_gemm";
constexpr std::size_t kWeightAlignment = 128;  ///< of a bulk copy

void check_problem(const RoutedGemmProblem& p, Device device) {
    constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();
    check_max_tokens(kOp, p.max_tokens);
    check::range(kOp, "rows", p.rows, 1, unlimited);
    check::range(kOp, "cols", p.cols, 1, unlimited);
    check_routing_problem(kOp, p.num_experts, p.num_local_experts, p.top_k);
    if (const Support spec = valid(p.weights); !spec) invalid("{}: `weights`: {}", kOp, spec.reason);
    check_product(kOp, "experts * bytes of a matrix",
                  {resolve_local_experts(p.num_experts, p.num_local_experts),
                   static_cast<std::int64_t>(matrix_layout(p).matrix_bytes)});
    check_product(kOp, "max_tokens * top_k * (rows or cols) * 8 bytes",
                  {p.max_tokens, p.top_k, std::max(p.rows, p.cols), 8});
    check::dtype(kOp, "act_dtype", p.act_dtype, {DType::bf16, DType::f16, DType::f32});
    check::dtype(kOp, "out_dtype", p.out_dtype, {DType::bf16, DType::f16, DType::f32, DType::f64});
    if (device.is_cuda())
        cuda::require(p, device);
    else
        require_cpu(kOp, device);
}

void check_tensors(const RoutedGemmState& state, const RoutedGemmArgs& args) {
    const RoutedGemmProblem& p = state.problem;
    check::tensor(
        args.x,
        {.op = kOp, .name = "x", .dtypes = {p.act_dtype}, .shape = {args.tokens, p.cols}, .device = state.device});
    check::tensor(args.matrix, {.op = kOp,
                                .name = "matrix",
                                .dtypes = {DType::u8},
                                .shape = {state.local_experts, static_cast<std::int64_t>(state.matrix.matrix_bytes)},
                                .device = state.device,
                                .alignment = kWeightAlignment});
    check::tensor(args.out, {.op = kOp,
                             .name = "out",
                             .dtypes = {p.out_dtype},
                             .shape = {args.tokens, p.rows},
                             .device = state.device,
                             .leading_rows = true,
                             .written = true});
}

void check_args(const RoutedGemmState& state, const RoutedGemmArgs& args, const Workspace& workspace) {
    const RoutedGemmProblem& p = state.problem;
    check::tokens(kOp, args.tokens, state.max_tokens);
    check_routing_args({kOp, state.device, p.num_experts, state.local_experts, p.top_k, p.apply_routing_weight},
                       {args.tokens, args.num_tokens, args.ids, args.weights, args.expert_map, args.first_expert});
    check_tensors(state, args);
    state.layout.check(workspace, state.device, kOp);
    check::disjoint(kOp, {"out", args.out},
                    {{"num_tokens", args.num_tokens},
                     {"x", args.x},
                     {"ids", args.ids},
                     {"weights", args.weights},
                     {"matrix", args.matrix},
                     {"expert_map", args.expert_map}},
                    workspace, state.layout.size());
}

}  // namespace

PackedLayout matrix_layout(const RoutedGemmProblem& problem) {
    return PackedLayout::make(problem.weights, problem.rows, problem.cols, false);
}

Support supports(const RoutedGemmProblem& problem, Device device) {
    return support_of([&] { check_problem(problem, device); });
}

RoutedGemmPlan make_plan(const RoutedGemmProblem& problem, Device device, const PlanOptions& options) {
    check_problem(problem, device);
    auto state = std::make_shared<RoutedGemmState>();
    state->problem = problem;
    state->local_experts = resolve_local_experts(problem.num_experts, problem.num_local_experts);
    state->matrix = matrix_layout(problem);
    if (device.is_cuda()) {
        cuda::plan_routed_gemm(*state, device, options);
        return detail::to_plan<RoutedGemmProblem>(std::shared_ptr<const RoutedGemmState>(std::move(state)));
    }
    choose_cpu(*state, kOp, device, problem.max_tokens, options, {}, problem.out_dtype);
    state->scratch =
        cpu::lay_out(*state, {.top_k = problem.top_k, .local_experts = state->local_experts, .x_cols = problem.cols});
    return detail::to_plan<RoutedGemmProblem>(std::shared_ptr<const RoutedGemmState>(std::move(state)));
}

void run(const RoutedGemmPlan& plan, const RoutedGemmArgs& args, const Workspace& workspace, Stream stream) {
    const auto& state = detail::state_of<RoutedGemmState>(plan);
    check_args(state, args, workspace);
    if (state.device.is_cuda()) return cuda::run_routed_gemm(state, args, workspace, stream);
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (state.options.check_ids) check_ids(kOp, args.ids, tokens, state.problem.num_experts);
    if (is_oracle(state, args.tokens))
        cpu::routed_gemm<double>(state, args, tokens, workspace);
    else
        cpu::routed_gemm<float>(state, args, tokens, workspace);
}

OwnedTensor routed_gemm(const RoutedGemmProblem& problem, RoutedGemmArgs args, Device device,
                        const Workspace& workspace, Stream stream) {
    return routed_gemm(make_plan(problem, device), std::move(args), workspace, stream);
}

OwnedTensor routed_gemm(const RoutedGemmPlan& plan, RoutedGemmArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const RoutedGemmProblem& p = plan.problem();
    OwnedTensor out = output_for(args.out, p.out_dtype, {args.tokens, p.rows}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return out;
}

}  // namespace tokamak::moe
