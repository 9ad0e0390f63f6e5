// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/moe_bench.h"

#include <algorithm>

#include "cli/bench/decode/targets.h"
#include "core/plan_state.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kHostTokens = 8;
constexpr std::int64_t kComparedTokens[] = {1, 8, 64};

double matrix_rate(const DecodeBench& bench, const MoeCase& layer) {
    return layer.problem.quantize_activations ? bench.fp8_tflops() : bench.bf16_tflops();
}

void set_targets(ResultRow& row, const DecodeCall& call) {
    if (call.mode != Mode::graph || call.routing != Routing::uniform || call.device_tokens != call.tokens) return;
    const auto target = moe_target(row.shape, row.format, row.tokens);
    if (!target) return;
    row.decode->must_us = target->must;
    row.decode->aim_us = target->aim;
    row.decode->best_public_us = target->best_public;
    row.decode->best_public = target->who;
}

std::string describe(const MoeCase& layer) { return layer.shape->name + " " + layer.format; }

/// Whole layers with uniform routing by each variant of the plan.
void compare_variants(DecodeBench& bench, MoeData& data) {
    const MoeCase& layer = data.layer();
    for (const std::string& variant : make_plan(layer.problem, bench.device()).state().variants) {
        const auto plan = make_plan(layer.problem, bench.device(), {.variant = variant});
        const OwnedWorkspace workspace(plan.workspace(), bench.device());
        for (const std::int64_t tokens : kComparedTokens)
            if (tokens <= layer.problem.max_tokens)
                bench.measure(
                    moe_subject(bench, data, plan, workspace, {tokens, tokens, Routing::uniform, Mode::graph}));
    }
}

}  // namespace

Subject moe_subject(const DecodeBench& bench, MoeData& data, const moe::FusedMoePlan& plan, const Workspace& workspace,
                    const DecodeCall& call) {
    const MoeCase& layer = data.layer();
    const moe::FusedMoeProblem& p = layer.problem;
    Subject subject;
    subject.row = moe_row(plan, layer.shape->name, layer.format, call.tokens);
    subject.row.routing = to_string(call.routing);
    subject.row.decode->device_tokens = call.device_tokens;
    const double route_flops = 6.0 * static_cast<double>(p.hidden) * static_cast<double>(p.intermediate);
    subject.flops = [&data, call, route_flops](int calls) {
        return data.local_routes(call.routing, call.device_tokens, calls) * route_flops;
    };
    set_targets(subject.row, call);
    subject.mode = call.mode;
    subject.most_calls = sets_for(call.tokens);
    subject.matrix_tflops = matrix_rate(bench, layer);
    subject.bytes = [&data, call](int calls) {
        return data.active(call.routing, call.device_tokens, calls) * data.expert_bytes();
    };
    const Tensor count = call.device_tokens < call.tokens ? data.count(call.device_tokens) : Tensor();
    const auto args = [&data, call, count](int set) {
        moe::FusedMoeArgs args = data.args(call.routing, call.tokens, set);
        args.num_tokens = count;
        return args;
    };
    subject.owning = [&plan, args](int set, Stream stream) { return fused_moe(plan, args(set), {}, stream); };
    subject.preallocated = [&plan, workspace, args, out = data.out()](int set, Stream stream) {
        moe::FusedMoeArgs call_args = args(set);
        call_args.out = out;
        moe::run(plan, call_args, workspace, stream);
    };
    moe::FusedMoeArgs first = args(0);
    first.out = data.out();
    subject.bare = [&plan, workspace, first](Stream stream) { moe::run(plan, first, workspace, stream); };
    subject.out = data.out();
    subject.workspace = workspace;
    subject.check = [&data, call](const Tensor& out) { return data.check(out, call.routing, call.device_tokens); };
    subject.limit = moe_limit(layer);
    subject.checked_tokens = static_cast<std::int64_t>(sampled_tokens(call.device_tokens).size());
    return subject;
}

std::vector<moe::FusedMoeArgs> uniform_calls(const DecodeBench& bench, MoeData& data, std::int64_t tokens) {
    const double bytes = data.active(Routing::uniform, tokens, 1) * data.expert_bytes();
    const int calls = calls_per_replay(bytes, bytes / bench.read_gbps() * 1e-3, device_info(bench.device()).l2_bytes,
                                       sets_for(tokens));
    std::vector<moe::FusedMoeArgs> args;
    for (int set = calls - 1; set >= 0; --set) {
        args.push_back(data.args(Routing::uniform, tokens, set));
        args.back().out = data.out();
    }
    return args;
}

void bench_fused_moe(DecodeBench& bench, MoeData& data) {
    const MoeCase& layer = data.layer();
    const auto plan = make_plan(layer.problem, bench.device());
    const OwnedWorkspace workspace(plan.workspace(), bench.device());
    bench.progress(describe(layer));
    for (const DecodeCall& call : moe_calls(bench.options(), layer.published)) {
        Subject subject = moe_subject(bench, data, plan, workspace, call);
        subject.sustained = layer.published && call == DecodeCall{kSustainedTokens, kSustainedTokens};
        bench.measure(subject);
    }
    const std::int64_t tokens = std::min(kHostTokens, layer.problem.max_tokens);
    if (layer.published)
        bench.measure_host(
            moe_subject(bench, data, plan, workspace, {tokens, tokens, Routing::uniform, Mode::workspace}));
}

int bench_moe(const DecodeOptions& options) {
    const auto cases = moe_cases(options);
    DecodeBench bench(options, "moe_decode");
    const WeightPool pool(options.device);
    if (options.clearing) bench_clearing(bench, pool);
    std::vector<const MoeShape*> shapes;
    for (const MoeCase& layer : cases) {
        if (std::find(shapes.begin(), shapes.end(), layer.shape) != shapes.end()) continue;
        shapes.push_back(layer.shape);
        if (options.wants("align")) bench_align(bench, *layer.shape);
        if (options.wants("sum_reduce")) bench_sum_reduce(bench, pool, *layer.shape);
    }
    for (const MoeCase& layer : cases) {
        const Support support = supports(layer.problem, options.device);
        if (!support) bench.refuse("fused_moe", layer.shape->name, layer.format, support.reason);
        const bool from_ids = support && options.wants("fused_moe");
        const bool from_logits = support && !from_logits_counts(options, layer).empty();
        const bool whole = layer.shape->local == 0;  // the GEMM by itself is measured with all experts
        const bool gemm = layer.published && whole && options.wants("routed_gemm");
        if (!from_ids && !from_logits && !gemm) continue;
        MoeData data(bench.lane(), pool, layer);
        data.reserve(layer.problem.max_tokens);
        if (from_ids) {
            bench_fused_moe(bench, data);
            if (options.configurations && layer.published) compare_variants(bench, data);
        }
        if (from_logits) bench_from_logits(bench, data);
        if (gemm) bench_routed_gemm(bench, data);
        bench.save();
    }
    bench.save();
    return bench.failures() == 0 ? 0 : 1;
}

}  // namespace tokamak::cli::bench
