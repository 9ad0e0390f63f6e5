// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/write_kv.h"

#include <limits>

#include "core/check.h"
#include "formats/kv_check.h"
#include "mla/call.h"
#include "mla/cpu/write_kv.h"

namespace tokamak::mla {
namespace {

constexpr const char* kOp = "write_kv";
constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();
constexpr kv::CacheNames kCache = {kOp, "cache.values", "cache.scales"};

void validate(const WriteKvProblem& problem) {
    check::range(kOp, "max_tokens", problem.max_tokens, 0, kAnyCount);
    check::range(kOp, "page_size", problem.page_size, 1, kAnyCount);
    kv::check_dim(problem.format, problem.dim, kOp, "dim");
    check::dtype(kOp, "dtype", problem.dtype, {DType::bf16, DType::f16, DType::f32});
    if (problem.scale == KvScale::exact && problem.format != KvFormat::fp8_656)
        invalid("{}: `scale` is exact, which only the format fp8_656 can store, not {}", kOp,
                to_string(problem.format));
}

void validate(const WriteKvPlan& plan, const WriteKvArgs& args, const Workspace& workspace) {
    const WriteKvProblem& problem = plan.problem();
    const Device device = plan.device();
    check::tokens(kOp, args.tokens, plan.max_tokens());
    check::num_tokens(args.num_tokens, kOp, device);
    check::tensor(
        args.kv,
        {.op = kOp, .name = "kv", .dtypes = {problem.dtype}, .shape = {args.tokens, problem.dim}, .device = device});
    check::tensor(
        args.slots,
        {.op = kOp, .name = "slots", .dtypes = {DType::i32, DType::i64}, .shape = {args.tokens}, .device = device});
    kv::check_cache(args.cache, {problem.format, problem.dim, problem.page_size, device, /*written=*/true}, kCache);
    plan.layout().check(workspace, device, kOp);
    for (const auto& [output, name] :
         {std::pair{&args.cache.values, kCache.values}, {&args.cache.scales, kCache.scales}})
        check::disjoint(kOp, {name, *output}, {{"kv", args.kv}, {"slots", args.slots}, {"num_tokens", args.num_tokens}},
                        workspace, plan.workspace());
}

}  // namespace

Support supports(const WriteKvProblem& problem, Device device) {
    return support_of<WriteKvProblem>(problem, device, &validate);
}

WriteKvPlan make_plan(const WriteKvProblem& problem, Device device, const PlanOptions& options) {
    validate(problem);
    if (device.is_cuda()) return cuda::make_plan(problem, device, options);
    auto state = std::make_shared<WriteKvState>();
    state->problem = problem;
    choose_cpu(*state, kOp, device, problem.max_tokens, options);
    book_rows(*state, problem.max_tokens);
    return detail::to_plan<WriteKvProblem>(std::shared_ptr<const WriteKvState>(std::move(state)));
}

void run(const WriteKvPlan& plan, const WriteKvArgs& args, const Workspace& workspace, Stream stream) {
    validate(plan, args, workspace);
    if (plan.device().is_cuda()) return cuda::run(plan, args, workspace, stream);
    const auto& state = detail::state_of<WriteKvState>(plan);
    if (state.options.check_ids) cpu::refuse_bad_slots(args);
    cpu::write_kv(state, args, workspace);
}

void write_kv(const WriteKvProblem& problem, const WriteKvArgs& args, Device device, const Workspace& workspace,
              Stream stream) {
    const WriteKvPlan plan = make_plan(problem, device);
    run(plan, args, CallWorkspace(plan, workspace, stream).view(), stream);
}

}  // namespace tokamak::mla
