// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/fused_moe.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/choose.h"
#include "core/operator_call.h"
#include "moe/cpu/expert_rows.h"
#include "moe/cpu/fused_moe.h"
#include "moe/cpu/plan_cpu.h"
#include "moe/cpu/route.h"
#include "moe/fused_moe_state.h"
#include "moe/problem_checks.h"
#include "moe/problem_key.h"
#include "moe/routing_args.h"

namespace tokamak::moe {
namespace {

constexpr const char* kOp = "fused_moe";
constexpr std::size_t kWeightAlignment = 128;  ///< of a bulk copy

void check_activation(const FusedMoeProblem& p) {
    check_finite(kOp, "activation.alpha", p.activation.alpha);
    check_finite(kOp, "activation.limit", p.activation.limit);
    const bool takes_e4m3 = p.weights.format == WeightFormat::fp8_block || p.weights.format == WeightFormat::mxfp4 ||
                            p.weights == WeightSpec::int4(32);
    if (p.quantize_activations && !takes_e4m3)
        invalid("{}: `quantize_activations` is set for {} weights, expected fp8_block, mxfp4 or int4_g32", kOp,
                to_string(p.weights));
}

void check_sizes(const FusedMoeProblem& p) {
    constexpr std::int64_t half = std::numeric_limits<std::int64_t>::max() / 2;
    check_max_tokens(kOp, p.max_tokens);
    check::range(kOp, "hidden", p.hidden, 1, half);
    check::range(kOp, "intermediate", p.intermediate, 1, half);
    check_routing_problem(kOp, p.num_experts, p.num_local_experts, p.top_k);
    if (const Support spec = valid(p.weights); !spec) invalid("{}: `weights`: {}", kOp, spec.reason);
    const int local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const auto bytes = [](const PackedLayout& layout) { return static_cast<std::int64_t>(layout.matrix_bytes); };
    check_product(kOp, "experts * bytes of a gate_up matrix", {local, bytes(gate_up_layout(p))});
    check_product(kOp, "experts * bytes of a down matrix", {local, bytes(down_layout(p))});
    check_product(kOp, "max_tokens * top_k * (hidden or intermediate) * 8 bytes",
                  {p.max_tokens, p.top_k, std::max(p.hidden, p.intermediate), 8});
}

void check_route(const FusedMoeProblem& p) {
    if (!p.route) return;
    if (const Support rule = supports(route_problem(p), Device::cpu()); !rule)
        invalid("{}: `route`: {}", kOp, rule.reason);
}

void check_batched(const FusedMoeProblem& p) {
    if (!p.batched_experts) return;
    if (p.top_k != 1) invalid("{}: `top_k` is {}, expected 1 where `batched_experts` is set", kOp, p.top_k);
    if (p.route) invalid("{}: `route` is set, expected none where `batched_experts` is set", kOp);
    if (const int local = resolve_local_experts(p.num_experts, p.num_local_experts); local != p.num_experts)
        invalid("{}: `num_local_experts` is {}, expected all {} where `batched_experts` is set", kOp, local,
                p.num_experts);
}

void check_problem(const FusedMoeProblem& p, Device device) {
    check_sizes(p);
    check_batched(p);
    check_activation(p);
    check_route(p);
    check::dtype(kOp, "act_dtype", p.act_dtype, {DType::bf16, DType::f16, DType::f32});
    check::dtype(kOp, "out_dtype", p.out_dtype, {DType::bf16, DType::f16, DType::f32, DType::f64});
    if (device.is_cuda())
        cuda::require(p, device);
    else
        require_cpu(kOp, device);
}

void check_weights(const FusedMoeState& state, const FusedMoeArgs& args) {
    const auto packed = [&](const char* name, const Tensor& tensor, const PackedLayout& layout) {
        check::tensor(tensor, {.op = kOp,
                               .name = name,
                               .dtypes = {DType::u8},
                               .shape = {state.local_experts, static_cast<std::int64_t>(layout.matrix_bytes)},
                               .device = state.device,
                               .alignment = kWeightAlignment});
    };
    const auto bias = [&](const char* name, const Tensor& tensor, std::int64_t cols) {
        check::optional_tensor(tensor, {.op = kOp,
                                        .name = name,
                                        .dtypes = {DType::bf16, DType::f32},
                                        .shape = {state.local_experts, cols},
                                        .device = state.device});
    };
    packed("gate_up", args.gate_up, state.gate_up);
    packed("down", args.down, state.down);
    bias("gate_up_bias", args.gate_up_bias, 2 * state.problem.intermediate);
    bias("down_bias", args.down_bias, state.problem.hidden);
}

void check_rows(const FusedMoeState& state, const FusedMoeArgs& args) {
    const FusedMoeProblem& p = state.problem;
    check::tensor(
        args.x,
        {.op = kOp, .name = "x", .dtypes = {p.act_dtype}, .shape = {args.tokens, p.hidden}, .device = state.device});
    check::optional_tensor(args.shared_output, {.op = kOp,
                                                .name = "shared_output",
                                                .dtypes = {p.out_dtype, p.act_dtype},
                                                .shape = {args.tokens, p.hidden},
                                                .device = state.device});
    check::tensor(args.out, {.op = kOp,
                             .name = "out",
                             .dtypes = {p.out_dtype},
                             .shape = {args.tokens, p.hidden},
                             .device = state.device,
                             .leading_rows = true,
                             .written = true});
}

RoutingShape routing_shape(const FusedMoeState& state) {
    const FusedMoeProblem& p = state.problem;
    return {kOp,
            state.device,
            p.num_experts,
            state.local_experts,
            p.top_k,
            p.routing_weight != RoutingWeight::none,
            p.route.has_value()};
}

/// Counts of rows instead of ids.
void check_expert_rows(const FusedMoeState& state, const FusedMoeArgs& args) {
    constexpr const char* kWhere = "where the problem has `batched_experts`";
    check::absent(args.ids, kOp, "ids", kWhere);
    check::absent(args.expert_map, kOp, "expert_map", kWhere);
    check::absent(args.num_tokens, kOp, "num_tokens", kWhere);
    check::absent(args.logits, kOp, "logits", kWhere);
    check::absent(args.correction_bias, kOp, "correction_bias", kWhere);
    check::range(kOp, "first_expert", args.first_expert, 0, 0);
    if (args.tokens % state.local_experts != 0)
        invalid("{}: `tokens` is {}, expected a multiple of the {} experts where `batched_experts` is set", kOp,
                args.tokens, state.local_experts);
    check::tensor(args.expert_rows, {.op = kOp,
                                     .name = "expert_rows",
                                     .dtypes = {DType::i32},
                                     .shape = {state.local_experts},
                                     .device = state.device,
                                     .contiguous_from = 0});
    check_routing_weights(routing_shape(state), args.tokens, args.weights);
}

/// Ids and weights, or what they are made of.
void check_routing(const FusedMoeState& state, const FusedMoeArgs& args) {
    const FusedMoeProblem& p = state.problem;
    if (p.batched_experts) return check_expert_rows(state, args);
    check::absent(args.expert_rows, kOp, "expert_rows", "unless the problem has `batched_experts`");
    check_routing_args(routing_shape(state),
                       {args.tokens, args.num_tokens, args.ids, args.weights, args.expert_map, args.first_expert});
    if (!p.route) {
        check::absent(args.logits, kOp, "logits", "unless the problem has a `route`");
        check::absent(args.correction_bias, kOp, "correction_bias", "unless the problem has a `route`");
        return;
    }
    check_scores(kOp, state.device, route_problem(p), {args.tokens, args.logits, args.correction_bias});
}

void check_args(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace) {
    check::tokens(kOp, args.tokens, state.max_tokens);
    check_routing(state, args);
    check_weights(state, args);
    check_rows(state, args);
    state.layout.check(workspace, state.device, kOp);
    check::disjoint(kOp, {"out", args.out},
                    {{"num_tokens", args.num_tokens},
                     {"x", args.x},
                     {"ids", args.ids},
                     {"weights", args.weights},
                     {"logits", args.logits},
                     {"correction_bias", args.correction_bias},
                     {"gate_up", args.gate_up},
                     {"down", args.down},
                     {"gate_up_bias", args.gate_up_bias},
                     {"down_bias", args.down_bias},
                     {"expert_map", args.expert_map},
                     {"expert_rows", args.expert_rows},
                     {"shared_output", args.shared_output}},
                    workspace, state.layout.size());
}

}  // namespace

PackedLayout gate_up_layout(const FusedMoeProblem& problem) {
    return PackedLayout::make(problem.weights, 2 * problem.intermediate, problem.hidden, true);
}

PackedLayout down_layout(const FusedMoeProblem& problem) {
    return PackedLayout::make(problem.weights, problem.hidden, problem.intermediate, false);
}

Support supports(const FusedMoeProblem& problem, Device device) {
    return support_of([&] { check_problem(problem, device); });
}

FusedMoePlan make_plan(const FusedMoeProblem& problem, Device device, const PlanOptions& options) {
    check_problem(problem, device);
    auto state = std::make_shared<FusedMoeState>();
    state->problem = problem;
    state->local_experts = resolve_local_experts(problem.num_experts, problem.num_local_experts);
    state->gate_up = gate_up_layout(problem);
    state->down = down_layout(problem);
    if (device.is_cuda()) {
        state->device = device;
        cuda::plan_fused_moe(*state, options);
        return detail::to_plan<FusedMoeProblem>(std::shared_ptr<const FusedMoeState>(std::move(state)));
    }
    choose_cpu(*state, kOp, device, problem.max_tokens, options, problem_key(problem), problem.out_dtype);
    const auto routes = static_cast<std::size_t>(problem.max_tokens * problem.top_k);
    if (problem.route || problem.batched_experts)
        state->routed_ids = state->layout.add<std::int32_t>("routed_ids", routes);
    if (problem.route) state->routed_weights = state->layout.add<float>("routed_weights", routes);
    state->scratch = cpu::lay_out(*state, {.top_k = problem.top_k,
                                           .local_experts = state->local_experts,
                                           .x_cols = problem.hidden,
                                           .x_per_route = problem.routing_weight == RoutingWeight::input,
                                           .intermediate = problem.intermediate,
                                           .reserved_bytes = state->layout.size().bytes});
    return detail::to_plan<FusedMoeProblem>(std::shared_ptr<const FusedMoeState>(std::move(state)));
}

namespace {

template <class Acc>
void run_on_cpu(const FusedMoeState& state, FusedMoeArgs args, const Workspace& workspace) {
    const FusedMoeProblem& p = state.problem;
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (p.route) {
        args.ids = Tensor(state.routed_ids.in(workspace), DType::i32, {args.tokens, p.top_k}, state.device);
        args.weights = Tensor(state.routed_weights.in(workspace), DType::f32, {args.tokens, p.top_k}, state.device);
        const RouteArgs route{.tokens = args.tokens,
                              .logits = args.logits,
                              .correction_bias = args.correction_bias,
                              .weights = args.weights,
                              .ids = args.ids};
        cpu::route<Acc>(route_problem(p), route, tokens, state.scratch.threads);
    }
    if (p.batched_experts) {
        args.ids = Tensor(state.routed_ids.in(workspace), DType::i32, {args.tokens, 1}, state.device);
        cpu::name_experts(args.expert_rows, args.ids);
    }
    if (state.options.check_ids && !p.batched_experts) check_ids(kOp, args.ids, tokens, p.num_experts);
    cpu::fused_moe<Acc>(state, args, tokens, workspace);
}

}  // namespace

void run(const FusedMoePlan& plan, const FusedMoeArgs& args, const Workspace& workspace, Stream stream) {
    const auto& state = detail::state_of<FusedMoeState>(plan);
    check_args(state, args, workspace);
    if (state.device.is_cuda()) return cuda::run_fused_moe(state, args, workspace, stream);
    if (is_oracle(state, args.tokens))
        run_on_cpu<double>(state, args, workspace);
    else
        run_on_cpu<float>(state, args, workspace);
}

OwnedTensor fused_moe(const FusedMoeProblem& problem, FusedMoeArgs args, Device device, const Workspace& workspace,
                      Stream stream) {
    return fused_moe(make_plan(problem, device), std::move(args), workspace, stream);
}

OwnedTensor fused_moe(const FusedMoePlan& plan, FusedMoeArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    if (args.accumulate_into_out && !args.out.present)
        invalid("{}: `out` is absent, expected a tensor where `accumulate_into_out` is set", kOp);
    const FusedMoeProblem& p = plan.problem();
    OwnedTensor out = output_for(args.out, p.out_dtype, {args.tokens, p.hidden}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return out;
}

}  // namespace tokamak::moe
