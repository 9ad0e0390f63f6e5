// SPDX-License-Identifier: Apache-2.0
// routed_gemm on the down projection of a layer.
#include <fmt/format.h>

#include <algorithm>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/moe_bench.h"
#include "core/choose.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kTokens[] = {1, 8, 64};

moe::RoutedGemmProblem down_problem(const MoeCase& layer) {
    const moe::FusedMoeProblem& p = layer.problem;
    moe::RoutedGemmProblem problem;
    problem.max_tokens = p.max_tokens;
    problem.rows = p.hidden;
    problem.cols = p.intermediate;
    problem.num_experts = p.num_experts;
    problem.top_k = p.top_k;
    problem.weights = p.weights;
    return problem;
}

moe::RoutedGemmArgs gemm_args(MoeData& data, const Tensor& x, std::int64_t tokens, int set) {
    const moe::FusedMoeArgs layer = data.args(Routing::uniform, tokens, set);
    moe::RoutedGemmArgs args;
    args.tokens = tokens;
    args.x = x.first_rows(tokens);
    args.ids = layer.ids;
    args.weights = layer.weights;
    args.matrix = layer.down;
    return args;
}

/// The first token against the oracle.
Distance check_gemm(const moe::RoutedGemmArgs& args, const moe::RoutedGemmProblem& on_device, const Tensor& out) {
    const LocalExperts local = local_experts(args.ids, 0, on_device.num_experts, on_device.num_experts);
    moe::RoutedGemmProblem problem = on_device;
    problem.max_tokens = 1;
    problem.num_local_experts = problem.top_k;
    problem.out_dtype = DType::f64;
    const OwnedTensor inputs[] = {rows_to_host(args.x, {0}), rows_to_host(args.weights, {0}),
                                  rows_to_host(args.matrix, local.experts)};
    moe::RoutedGemmArgs host;
    host.tokens = 1;
    host.x = inputs[0];
    host.ids = local.ids;
    host.weights = inputs[1];
    host.matrix = inputs[2];
    host.expert_map = local.map;
    return distance(rows_to_host(out, {0}), routed_gemm(make_plan(problem, Device::cpu(), {.variant = kCpuF64}), host));
}

}  // namespace

void bench_routed_gemm(DecodeBench& bench, MoeData& data) {
    const MoeCase& layer = data.layer();
    if (layer.problem.quantize_activations) return;  // there is no such GEMM by itself: a16 is measured
    const moe::RoutedGemmProblem problem = down_problem(layer);
    if (const Support support = supports(problem, bench.device()); !support)
        return bench.refuse("routed_gemm", layer.shape->name, layer.format, support.reason);
    const auto plan = make_plan(problem, bench.device());
    const OwnedWorkspace workspace(plan.workspace(), bench.device());
    const OwnedTensor x = OwnedTensor::allocate(DType::bf16, {problem.max_tokens, problem.cols}, bench.device());
    fill_normal(x.view().data, static_cast<std::size_t>(x.view().elements()), 55, bench.stream().stream());
    const auto matrix_bytes = static_cast<double>(moe::matrix_layout(problem).matrix_bytes);
    for (const std::int64_t tokens : kTokens) {
        if (tokens > problem.max_tokens) continue;
        Subject subject;
        subject.row = moe_row(plan, layer.shape->name, layer.format, tokens);
        subject.row.routing = to_string(Routing::uniform);
        subject.row.flops = 2.0 * static_cast<double>(tokens * problem.top_k) * static_cast<double>(problem.rows) *
                            static_cast<double>(problem.cols);
        subject.most_calls = kMoeSets;
        subject.matrix_tflops = bench.bf16_tflops();
        subject.bytes = [&data, tokens, matrix_bytes](int calls) {
            return data.active(Routing::uniform, tokens, calls) * matrix_bytes;
        };
        subject.owning = [&data, &plan, &x, tokens](int set, Stream stream) {
            return routed_gemm(plan, gemm_args(data, x, tokens, set), {}, stream);
        };
        subject.preallocated = [&data, &plan, &x, &workspace, tokens](int set, Stream stream) {
            moe::RoutedGemmArgs args = gemm_args(data, x, tokens, set);
            args.out = data.out();
            moe::run(plan, args, workspace, stream);
        };
        moe::RoutedGemmArgs first = gemm_args(data, x, tokens, 0);
        first.out = data.out();
        subject.bare = [&plan, &workspace, first](Stream stream) { moe::run(plan, first, workspace, stream); };
        subject.out = data.out();
        subject.workspace = workspace;
        subject.check = [&data, &x, &problem, tokens](const Tensor& out) {
            return check_gemm(gemm_args(data, x, tokens, 0), problem, out);
        };
        subject.limit = moe_limit(layer);
        subject.checked_tokens = 1;
        for (const Mode mode : bench.options().mode_list()) {
            subject.mode = mode;
            bench.measure(subject);
        }
        if (tokens == 8) bench.measure_host(subject);
    }
}

}  // namespace tokamak::cli::bench
