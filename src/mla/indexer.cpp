// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/indexer.h"

#include <limits>

#include "core/check.h"
#include "mla/call.h"
#include "mla/cpu/indexer.h"

namespace tokamak::mla {
namespace {

constexpr const char* kOp = "indexer";
constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLargestSize = std::numeric_limits<std::int32_t>::max();

void validate(const IndexerProblem& problem) {
    check::range(kOp, "max_tokens", problem.max_tokens, 0, kAnyCount);
    check::range(kOp, "heads", problem.heads, 1, 1 << 16);
    check::range(kOp, "dim", problem.dim, 1, 1 << 20);
    check::range(kOp, "keys", problem.keys, 1, kLargestSize);
    check::range(kOp, "top_k", problem.top_k, 1, problem.keys);
    check::dtype(kOp, "dtype", problem.dtype, {DType::bf16, DType::f16, DType::f32});
}

void validate_inputs(const IndexerProblem& problem, const IndexerArgs& args, Device device) {
    check::tensor(args.q, {.op = kOp,
                           .name = "q",
                           .dtypes = {problem.dtype},
                           .shape = {args.tokens, problem.heads, problem.dim},
                           .device = device,
                           .contiguous_from = 2});
    check::tensor(
        args.k,
        {.op = kOp, .name = "k", .dtypes = {problem.dtype}, .shape = {problem.keys, problem.dim}, .device = device});
    check::tensor(args.weights, {.op = kOp,
                                 .name = "weights",
                                 .dtypes = {DType::f32},
                                 .shape = {args.tokens, problem.heads},
                                 .device = device});
    const auto optional_counts = [&](const Tensor& tensor, const char* name) {
        return check::optional_tensor(
            tensor, {.op = kOp, .name = name, .dtypes = {DType::i32}, .shape = {args.tokens}, .device = device});
    };
    const bool has_lengths = optional_counts(args.lengths, "lengths");
    if (optional_counts(args.row_starts, "row_starts") && !has_lengths)
        invalid("{}: `row_starts` is {}, but `lengths` is absent: a window needs both", kOp,
                to_string(args.row_starts));
}

void validate(const IndexerPlan& plan, const IndexerArgs& args, const Workspace& workspace) {
    const IndexerProblem& problem = plan.problem();
    const Device device = plan.device();
    check::tokens(kOp, args.tokens, plan.max_tokens());
    check::num_tokens(args.num_tokens, kOp, device);
    validate_inputs(problem, args, device);
    check::optional_tensor(args.logits, {.op = kOp,
                                         .name = "logits",
                                         .dtypes = {DType::f32},
                                         .shape = {args.tokens, problem.keys},
                                         .device = device,
                                         .leading_rows = true,
                                         .written = true});
    check::tensor(args.indices, {.op = kOp,
                                 .name = "indices",
                                 .dtypes = {DType::i32},
                                 .shape = {args.tokens, problem.top_k},
                                 .device = device,
                                 .leading_rows = true,
                                 .written = true});
    plan.layout().check(workspace, device, kOp);
    for (const auto& [output, name] : {std::pair{&args.logits, "logits"}, {&args.indices, "indices"}})
        check::disjoint(kOp, {name, *output},
                        {{"q", args.q},
                         {"k", args.k},
                         {"weights", args.weights},
                         {"lengths", args.lengths},
                         {"row_starts", args.row_starts},
                         {"num_tokens", args.num_tokens}},
                        workspace, plan.workspace());
    check::no_overlap(args.logits, "logits", args.indices, "indices", kOp);
}

}  // namespace

Support supports(const IndexerProblem& problem, Device device) {
    return support_of<IndexerProblem>(problem, device, &validate);
}

IndexerPlan make_plan(const IndexerProblem& problem, Device device, const PlanOptions& options) {
    validate(problem);
    if (device.is_cuda()) return cuda::make_plan(problem, device, options);
    auto state = std::make_shared<IndexerState>();
    state->problem = problem;
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    cpu::book_scratch(*state);
    return detail::to_plan<IndexerProblem>(std::shared_ptr<const IndexerState>(std::move(state)));
}

void run(const IndexerPlan& plan, const IndexerArgs& args, const Workspace& workspace, Stream stream) {
    validate(plan, args, workspace);
    if (plan.device().is_cuda()) return cuda::run(plan, args, workspace, stream);
    cpu::indexer(detail::state_of<IndexerState>(plan), args, workspace);
}

IndexerResult indexer(const IndexerPlan& plan, IndexerArgs args, const Workspace& workspace, Stream stream) {
    check::tokens(kOp, args.tokens, plan.max_tokens());
    const IndexerProblem& problem = plan.problem();
    IndexerResult result;
    result.logits = output_for(args.logits, DType::f32, {args.tokens, problem.keys}, plan.device());
    result.indices = output_for(args.indices, DType::i32, {args.tokens, problem.top_k}, plan.device());
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
    return result;
}

IndexerResult indexer(const IndexerProblem& problem, IndexerArgs args, Device device, const Workspace& workspace,
                      Stream stream) {
    return indexer(make_plan(problem, device), std::move(args), workspace, stream);
}

}  // namespace tokamak::mla
