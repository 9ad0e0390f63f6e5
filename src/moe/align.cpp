// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/align.h"

#include <limits>

#include "core/check.h"
#include "core/choose.h"
#include "core/operator_call.h"
#include "moe/cpu/align.h"
#include "moe/cuda/small/small_operators.h"
#include "moe/problem_checks.h"
#include "moe/routing_args.h"

namespace tokamak::moe {
namespace {

constexpr const char* kOp = "align";
constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

struct AlignState : detail::TypedState<AlignProblem> {
    int global_experts = 0;
    Slice<std::int64_t> ends;  ///< per expert: where its next route goes
};

/// Bins that routes are sorted into: the local experts and, if kept, the ghost.
std::int64_t bins(const AlignProblem& p) noexcept {
    return std::int64_t{p.num_experts} + (p.non_local == NonLocal::ghost ? 1 : 0);
}

int global_experts(const AlignProblem& p) noexcept {
    return p.num_global_experts > 0 ? p.num_global_experts : p.num_experts;
}

/// All but the device.
void check_sizes(const AlignProblem& p) {
    check_max_tokens(kOp, p.max_tokens);
    check::range(kOp, "num_global_experts", p.num_global_experts, 0, kMaxExperts);
    if (p.num_global_experts > 0)
        check::range(kOp, "num_experts", p.num_experts, 0, p.num_global_experts);
    else
        check::range(kOp, "num_experts", p.num_experts, 1, kMaxExperts);
    check::range(kOp, "top_k", p.top_k, 1, kMaxTopK);
    check::range(kOp, "block_size", p.block_size, 1, kMaxInt32);
    check::dtype(kOp, "ids_dtype", p.ids_dtype, {DType::i32, DType::i64});
    const std::int64_t padding = (bins(p) + 1) * (p.block_size - 1);
    if (p.max_tokens > (kMaxInt32 - padding) / p.top_k)
        invalid("{}: `max_tokens` is {}, expected at most {}: positions are 32-bit numbers", kOp, p.max_tokens,
                std::max<std::int64_t>(0, kMaxInt32 - padding) / p.top_k);
}

void check_problem(const AlignProblem& p, Device device) {
    check_sizes(p);
    if (device.is_cuda())
        cuda::require_small(kOp, device);
    else
        require_cpu(kOp, device);
}

void check_inputs(const AlignState& state, const AlignArgs& args) {
    const AlignProblem& p = state.problem;
    check::tokens(kOp, args.tokens, state.max_tokens);
    check::num_tokens(args.num_tokens, kOp, state.device);
    check::tensor(
        args.ids,
        {.op = kOp, .name = "ids", .dtypes = {p.ids_dtype}, .shape = {args.tokens, p.top_k}, .device = state.device});
    const bool mapped = check::optional_tensor(args.expert_map, {.op = kOp,
                                                                 .name = "expert_map",
                                                                 .dtypes = {DType::i32},
                                                                 .shape = {state.global_experts},
                                                                 .device = state.device,
                                                                 .contiguous_from = 0});
    if (!mapped && state.global_experts != p.num_experts)
        invalid("{}: `expert_map` is absent, expected i32[{}] where `num_experts` is {}", kOp, state.global_experts,
                p.num_experts);
}

void check_outputs(const AlignState& state, const AlignArgs& args, const Workspace& workspace) {
    const AlignSizes sizes = align_sizes(state.problem, args.tokens);
    const auto output = [&](const char* name, const Tensor& tensor, std::int64_t count) {
        check::tensor(tensor, {.op = kOp,
                               .name = name,
                               .dtypes = {DType::i32},
                               .shape = {count},
                               .device = state.device,
                               .leading_rows = true,
                               .contiguous_from = 0,
                               .written = true});
    };
    output("sorted_token_ids", args.sorted_token_ids, sizes.max_padded);
    output("expert_ids", args.expert_ids, sizes.max_blocks);
    output("num_tokens_post_padded", args.num_tokens_post_padded, 1);
    state.layout.check(workspace, state.device, kOp);
    const check::NamedArg ids{"ids", args.ids};
    const check::NamedArg map{"expert_map", args.expert_map};
    const check::NamedArg count{"num_tokens", args.num_tokens};
    const check::NamedArg experts{"expert_ids", args.expert_ids};
    const check::NamedArg post{"num_tokens_post_padded", args.num_tokens_post_padded};
    const WorkspaceSize used = state.layout.size();
    check::disjoint(kOp, {"sorted_token_ids", args.sorted_token_ids}, {ids, map, count, experts, post}, workspace,
                    used);
    check::disjoint(kOp, experts, {ids, map, count, post}, workspace, used);
    check::disjoint(kOp, post, {ids, map, count}, workspace, used);
}

}  // namespace

AlignSizes align_sizes(const AlignProblem& problem, std::int64_t tokens) {
    check_sizes(problem);
    check::tokens(kOp, tokens, problem.max_tokens);
    AlignSizes sizes;
    sizes.pad_id = tokens * problem.top_k;
    sizes.max_padded = sizes.pad_id + (bins(problem) + 1) * (std::int64_t{problem.block_size} - 1);
    sizes.max_blocks = (sizes.max_padded + problem.block_size - 1) / problem.block_size;
    return sizes;
}

Support supports(const AlignProblem& problem, Device device) {
    return support_of([&] { check_problem(problem, device); });
}

AlignPlan make_plan(const AlignProblem& problem, Device device, const PlanOptions& options) {
    check_problem(problem, device);
    auto state = std::make_shared<AlignState>();
    state->problem = problem;
    state->global_experts = global_experts(problem);
    if (device.is_cuda()) {
        cuda::plan_small(*state, device, options);
        return detail::to_plan<AlignProblem>(std::shared_ptr<const AlignState>(std::move(state)));
    }
    state->ends = state->layout.add<std::int64_t>("ends", static_cast<std::size_t>(bins(problem)));
    check_workspace_limit(kOp, options, state->layout.size());
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    return detail::to_plan<AlignProblem>(std::shared_ptr<const AlignState>(std::move(state)));
}

void run(const AlignPlan& plan, const AlignArgs& args, const Workspace& workspace, Stream stream) {
    const auto& state = detail::state_of<AlignState>(plan);
    check_inputs(state, args);
    check_outputs(state, args, workspace);
    if (state.device.is_cuda()) return cuda::run_small(state, args, stream);
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (state.options.check_ids) check_ids(kOp, args.ids, tokens, state.global_experts);
    cpu::align(state.problem, args, tokens, state.ends.span_in(workspace));
}

Tensor AlignResult::used_expert_ids(int block_size, Stream stream) const {
    check::range(kOp, "block_size", block_size, 1, kMaxInt32);
    const Tensor& post = num_tokens_post_padded.view();
    std::int32_t padded = 0;
    copy_bytes(&padded, Device::cpu(), post.data, post.device, sizeof(padded), stream);
    synchronize(post.device, stream);
    return expert_ids.view().first_rows(padded / block_size);
}

AlignResult align(const AlignProblem& problem, AlignArgs args, Device device, const Workspace& workspace,
                  Stream stream) {
    return align(make_plan(problem, device), std::move(args), workspace, stream);
}

AlignResult align(const AlignPlan& plan, AlignArgs args, const Workspace& workspace, Stream stream) {
    const AlignSizes sizes = align_sizes(plan.problem(), args.tokens);
    AlignResult result;
    result.sorted_token_ids = output_for(args.sorted_token_ids, DType::i32, {sizes.max_padded}, plan.device());
    result.expert_ids = output_for(args.expert_ids, DType::i32, {sizes.max_blocks}, plan.device());
    result.num_tokens_post_padded = output_for(args.num_tokens_post_padded, DType::i32, {1}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return result;
}

}  // namespace tokamak::moe
