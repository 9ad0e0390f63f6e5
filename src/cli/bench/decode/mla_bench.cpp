// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/mla_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/bench/decode/targets.h"
#include "core/plan_state.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kComparedTokens[] = {1, 8, 64};
constexpr std::int64_t kHostTokens = 8;

Subject make_subject(const DecodeBench& bench, MlaData& data, const mla::SparseAttentionPlan& plan,
                     const Workspace& workspace, std::int64_t tokens, Mode mode) {
    Subject subject;
    ResultRow& row = subject.row;
    row.op = plan.op();
    row.shape = data.attention().shape->name;
    row.format = to_string(data.attention().format);
    row.tokens = tokens;
    row.routing = "random rows";
    row.variant = plan.row_for(tokens).variant;
    row.flops = data.flops(tokens);
    row.decode = DecodeFacts{};
    row.decode->source = plan.row_for(tokens).source;
    row.decode->device_tokens = tokens;
    if (const auto target = mla_target(row.shape, row.format, tokens); target && mode == Mode::graph) {
        row.decode->must_us = target->must;
        row.decode->aim_us = target->aim;
        row.decode->best_public_us = target->best_public;
        row.decode->best_public = target->who;
    }
    subject.mode = mode;
    subject.most_calls = data.sets(tokens);
    subject.matrix_tflops = bench.bf16_tflops();
    subject.bytes = [&data, tokens](int) { return data.bytes(tokens); };
    subject.owning = [&data, &plan, tokens](int set, Stream stream) {
        mla::SparseAttentionArgs args = data.args(tokens, set);
        return std::move(sparse_attention(plan, args, {}, stream).out);
    };
    subject.preallocated = [&data, &plan, workspace, tokens](int set, Stream stream) {
        mla::SparseAttentionArgs args = data.args(tokens, set);
        args.out = data.out();
        args.lse = data.lse();
        mla::run(plan, args, workspace, stream);
    };
    mla::SparseAttentionArgs first = data.args(tokens, 0);
    first.out = data.out();
    first.lse = data.lse();
    subject.bare = [&plan, workspace, first](Stream stream) { mla::run(plan, first, workspace, stream); };
    subject.out = data.out();
    subject.workspace = workspace;
    subject.check = [&data, tokens](const Tensor& out) { return data.check(out, tokens); };
    subject.limit = kMlaLimit;
    subject.checked_tokens = static_cast<std::int64_t>(sampled_tokens(tokens).size());
    return subject;
}

void compare_configurations(DecodeBench& bench, MlaData& data, const mla::SparseAttentionPlan& automatic) {
    for (const std::int64_t tokens : kComparedTokens) {
        if (tokens > data.problem().max_tokens) continue;
        for (const std::string& variant : automatic.state().variants) {
            const auto plan = make_plan(data.problem(), bench.device(), {.variant = variant});
            const OwnedWorkspace workspace(plan.workspace(), bench.device());
            bench.measure(make_subject(bench, data, plan, workspace, tokens, Mode::graph));
        }
    }
}

void bench_attention(DecodeBench& bench, const MlaCase& attention) {
    const DecodeOptions& options = bench.options();
    const char* const format = to_string(attention.format);
    const auto problem = sparse_attention_problem(*attention.shape, attention.format, options.max_tokens());
    if (const Support support = supports(problem, options.device); !support)
        return bench.refuse("sparse_attention", attention.shape->name, format, support.reason);
    bench.progress(fmt::format("{} {}: filling the caches", attention.shape->name, format));
    MlaData data(bench.lane(), attention, options.max_tokens());
    const auto plan = make_plan(data.problem(), options.device);
    const OwnedWorkspace workspace(plan.workspace(), options.device);
    for (const std::int64_t tokens : options.token_counts())
        for (const Mode mode : options.mode_list()) {
            Subject subject = make_subject(bench, data, plan, workspace, tokens, mode);
            subject.sustained = mode == Mode::graph && tokens == kSustainedTokens;
            bench.measure(subject);
        }
    const std::int64_t tokens = std::min(kHostTokens, options.max_tokens());
    bench.measure_host(make_subject(bench, data, plan, workspace, tokens, Mode::workspace));
    if (options.configurations) compare_configurations(bench, data, plan);
    bench.save();
}

}  // namespace

int bench_mla(const DecodeOptions& options) {
    const auto cases = mla_cases(options);
    DecodeBench bench(options, "mla_decode");
    bench_row_operators(bench, cases);  // first: what a time limit cuts off is then some of the many configurations
    bench.save();
    if (options.wants("sparse_attention"))
        for (const MlaCase& attention : cases) bench_attention(bench, attention);
    return bench.failures() == 0 ? 0 : 1;
}

}  // namespace tokamak::cli::bench
