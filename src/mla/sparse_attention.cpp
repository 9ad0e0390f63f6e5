// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/sparse_attention.h"

#include "core/check.h"
#include "mla/call.h"
#include "mla/cpu/sparse_attention.h"
#include "mla/problem_key.h"
#include "mla/sparse_attention_state.h"

namespace tokamak::mla {

Support supports(const SparseAttentionProblem& problem, Device device) {
    return support_of(problem, device, &validate);
}

SparseAttentionPlan make_plan(const SparseAttentionProblem& problem, Device device, const PlanOptions& options) {
    validate(problem);
    if (device.is_cuda()) return cuda::make_plan(problem, device, options);
    auto state = std::make_shared<SparseAttentionState>();
    state->problem = problem;
    choose_cpu(*state, kSparseAttention, device, problem.max_tokens, options, problem_key(problem), problem.out_dtype);
    cpu::book_scratch(*state);
    return detail::to_plan<SparseAttentionProblem>(std::shared_ptr<const SparseAttentionState>(std::move(state)));
}

void run(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace, Stream stream) {
    validate(plan, args, workspace);
    if (plan.device().is_cuda()) return cuda::run(plan, args, workspace, stream);
    const auto& state = detail::state_of<SparseAttentionState>(plan);
    if (state.options.check_ids) cpu::refuse_bad_indices(state, args);
    cpu::sparse_attention(state, args, workspace);
}

SparseAttentionResult sparse_attention(const SparseAttentionPlan& plan, SparseAttentionArgs args,
                                       const Workspace& workspace, Stream stream) {
    check::tokens(kSparseAttention, args.tokens, plan.max_tokens());
    const SparseAttentionProblem& problem = plan.problem();
    SparseAttentionResult result;
    result.out =
        output_for(args.out, problem.out_dtype, {args.tokens, problem.heads, problem.value_dim}, plan.device());
    result.lse = output_for(args.lse, DType::f32, {args.tokens, problem.heads}, plan.device());
    result.max_logits = output_for(args.max_logits, DType::f32, {args.tokens, problem.heads}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return result;
}

SparseAttentionResult sparse_attention(const SparseAttentionProblem& problem, SparseAttentionArgs args, Device device,
                                       const Workspace& workspace, Stream stream) {
    return sparse_attention(make_plan(problem, device), std::move(args), workspace, stream);
}

}  // namespace tokamak::mla
