// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/paged_gather.h"

#include <limits>

#include "core/check.h"
#include "formats/kv_check.h"
#include "mla/call.h"
#include "mla/cpu/paged_gather.h"

namespace tokamak::mla {
namespace {

constexpr const char* kOp = "paged_gather";
constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();
constexpr kv::CacheNames kCache = {kOp, "cache.values", "cache.scales"};

void validate(const PagedGatherProblem& problem) {
    check::range(kOp, "max_tokens", problem.max_tokens, 0, kAnyCount);
    check::range(kOp, "top_k", problem.top_k, 0, kAnyCount);
    check::range(kOp, "page_size", problem.page_size, 1, kAnyCount);
    kv::check_dim(problem.format, problem.dim, kOp, "dim");
    check::dtype(kOp, "out_dtype", problem.out_dtype, {DType::bf16, DType::f16, DType::f32});
}

void validate(const PagedGatherPlan& plan, const PagedGatherArgs& args, const Workspace& workspace) {
    const PagedGatherProblem& problem = plan.problem();
    const Device device = plan.device();
    check::tokens(kOp, args.tokens, plan.max_tokens());
    check::num_tokens(args.num_tokens, kOp, device);
    kv::check_cache(args.cache, {problem.format, problem.dim, problem.page_size, device}, kCache);
    check::tensor(args.positions, {.op = kOp,
                                   .name = "positions",
                                   .dtypes = {DType::i32},
                                   .shape = {args.tokens, problem.top_k},
                                   .device = device});
    if (problem.has_table)
        check::tensor(args.block_table, {.op = kOp,
                                         .name = "block_table",
                                         .dtypes = {DType::i32},
                                         .shape = {args.tokens, check::any},
                                         .device = device});
    else
        check::absent(args.block_table, kOp, "block_table", "because the plan was made without has_table");
    check::tensor(args.out, {.op = kOp,
                             .name = "out",
                             .dtypes = {problem.out_dtype},
                             .shape = {args.tokens, problem.top_k, problem.dim},
                             .device = device,
                             .leading_rows = true,
                             .contiguous_from = 2,
                             .written = true});
    plan.layout().check(workspace, device, kOp);
    check::disjoint(kOp, {"out", args.out},
                    {{kCache.values, args.cache.values},
                     {kCache.scales, args.cache.scales},
                     {"positions", args.positions},
                     {"block_table", args.block_table},
                     {"num_tokens", args.num_tokens}},
                    workspace, plan.workspace());
}

}  // namespace

Support supports(const PagedGatherProblem& problem, Device device) {
    return support_of<PagedGatherProblem>(problem, device, &validate);
}

PagedGatherPlan make_plan(const PagedGatherProblem& problem, Device device, const PlanOptions& options) {
    validate(problem);
    if (device.is_cuda()) return cuda::make_plan(problem, device, options);
    auto state = std::make_shared<PagedGatherState>();
    state->problem = problem;
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    book_rows(*state, work_items(problem.max_tokens, problem.top_k));
    return detail::to_plan<PagedGatherProblem>(std::shared_ptr<const PagedGatherState>(std::move(state)));
}

void run(const PagedGatherPlan& plan, const PagedGatherArgs& args, const Workspace& workspace, Stream stream) {
    validate(plan, args, workspace);
    if (plan.device().is_cuda()) return cuda::run(plan, args, workspace, stream);
    const auto& state = detail::state_of<PagedGatherState>(plan);
    if (state.options.check_ids) cpu::refuse_bad_positions(state, args);
    cpu::paged_gather(state, args, workspace);
}

OwnedTensor paged_gather(const PagedGatherPlan& plan, PagedGatherArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const PagedGatherProblem& problem = plan.problem();
    OwnedTensor out = output_for(args.out, problem.out_dtype, {args.tokens, problem.top_k, problem.dim}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return out;
}

OwnedTensor paged_gather(const PagedGatherProblem& problem, PagedGatherArgs args, Device device,
                         const Workspace& workspace, Stream stream) {
    return paged_gather(make_plan(problem, device), std::move(args), workspace, stream);
}

}  // namespace tokamak::mla
