// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/merge_state.h"

#include <limits>

#include "core/check.h"
#include "mla/call.h"
#include "mla/cpu/merge_state.h"

namespace tokamak::mla {
namespace {

constexpr const char* kOp = "merge_state";
constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();

struct State : detail::TypedState<MergeStateProblem> {};

void validate(const MergeStateProblem& problem) {
    check::range(kOp, "max_tokens", problem.max_tokens, 0, kAnyCount);
    check::range(kOp, "heads", problem.heads, 1, kAnyCount);
    check::range(kOp, "dim", problem.dim, 1, kAnyCount);
    check::dtype(kOp, "dtype", problem.dtype, {DType::bf16, DType::f16, DType::f32});
}

bool same_view(const Tensor& a, const Tensor& b) noexcept {
    return a.data == b.data && a.rank == b.rank &&
           std::equal(a.strides.begin(), a.strides.begin() + a.rank, b.strides.begin());
}

/// An output may be an input element for element, but not overlap it otherwise.
void refuse_partial_overlap(const Tensor& output, const char* output_name, const Tensor& input,
                            const char* input_name) {
    if (!same_view(output, input)) check::no_overlap(output, output_name, input, input_name, kOp);
}

void validate(const MergeStatePlan& plan, const MergeStateArgs& args) {
    const MergeStateProblem& problem = plan.problem();
    check::tokens(kOp, args.tokens, plan.max_tokens());
    check::num_tokens(args.num_tokens, kOp, plan.device());
    const auto partial = [&](const Tensor& tensor, const char* name, bool written) {
        check::tensor(tensor, {.op = kOp,
                               .name = name,
                               .dtypes = {problem.dtype},
                               .shape = {args.tokens, problem.heads, problem.dim},
                               .device = plan.device(),
                               .leading_rows = written,
                               .contiguous_from = 2,
                               .written = written});
    };
    const auto statistic = [&](const Tensor& tensor, const char* name, bool written) {
        check::tensor(tensor, {.op = kOp,
                               .name = name,
                               .dtypes = {DType::f32},
                               .shape = {args.tokens, problem.heads},
                               .device = plan.device(),
                               .leading_rows = written,
                               .written = written});
    };
    partial(args.out_a, "out_a", false);
    statistic(args.lse_a, "lse_a", false);
    partial(args.out_b, "out_b", false);
    statistic(args.lse_b, "lse_b", false);
    partial(args.out, "out", true);
    statistic(args.lse, "lse", true);
    refuse_partial_overlap(args.out, "out", args.out_a, "out_a");
    refuse_partial_overlap(args.out, "out", args.out_b, "out_b");
    refuse_partial_overlap(args.lse, "lse", args.lse_a, "lse_a");
    refuse_partial_overlap(args.lse, "lse", args.lse_b, "lse_b");
    check::no_overlap(args.out, "out", args.lse_a, "lse_a", kOp);
    check::no_overlap(args.out, "out", args.lse_b, "lse_b", kOp);
    check::no_overlap(args.lse, "lse", args.out_a, "out_a", kOp);
    check::no_overlap(args.lse, "lse", args.out_b, "out_b", kOp);
    check::no_overlap(args.out, "out", args.lse, "lse", kOp);
    check::no_overlap(args.out, "out", args.num_tokens, "num_tokens", kOp);
    check::no_overlap(args.lse, "lse", args.num_tokens, "num_tokens", kOp);
}

}  // namespace

Support supports(const MergeStateProblem& problem, Device device) {
    return support_of<MergeStateProblem>(problem, device, &validate);
}

MergeStatePlan make_plan(const MergeStateProblem& problem, Device device, const PlanOptions& options) {
    validate(problem);
    if (device.is_cuda()) return cuda::make_plan(problem, device, options);
    auto state = std::make_shared<State>();
    state->problem = problem;
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    return detail::to_plan<MergeStateProblem>(std::shared_ptr<const State>(std::move(state)));
}

void run(const MergeStatePlan& plan, const MergeStateArgs& args, const Workspace& workspace, Stream stream) {
    validate(plan, args);
    plan.layout().check(workspace, plan.device(), kOp);
    if (plan.device().is_cuda()) return cuda::run(plan, args, workspace, stream);
    cpu::merge_state(plan.problem(), args, is_oracle(plan.state(), args.tokens));
}

MergeStateResult merge_state(const MergeStatePlan& plan, MergeStateArgs args, const Workspace& workspace,
                             Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const MergeStateProblem& problem = plan.problem();
    MergeStateResult result;
    result.out = output_for(args.out, problem.dtype, {args.tokens, problem.heads, problem.dim}, plan.device());
    result.lse = output_for(args.lse, DType::f32, {args.tokens, problem.heads}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return result;
}

MergeStateResult merge_state(const MergeStateProblem& problem, MergeStateArgs args, Device device,
                             const Workspace& workspace, Stream stream) {
    return merge_state(make_plan(problem, device), std::move(args), workspace, stream);
}

}  // namespace tokamak::mla
