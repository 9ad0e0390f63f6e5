// SPDX-License-Identifier: Apache-2.0
// `bench moe --preset prefill`: whole layers with many tokens.
#include <fmt/format.h>

#include <algorithm>

#include "cli/bench/decode/moe_bench.h"
#include "cli/bench/decode/targets.h"

namespace tokamak::cli::bench {
namespace {

constexpr double kMostSpread = 0.02;  ///< of three runs
constexpr const char* kClearingShape = "dsv3-ep8";
constexpr double kRiseNoise = 0.02;  ///< of the time per token from one count to the next

Subject many_subject(const DecodeBench& bench, MoeData& data, const moe::FusedMoePlan& plan, const Workspace& workspace,
                     const DecodeCall& call) {
    Subject subject = moe_subject(bench, data, plan, workspace, call);
    subject.many_tokens = true;
    subject.sustained = call.tokens == kRepeatedTokens && call.mode == Mode::graph && call.routing == Routing::uniform;
    DecodeFacts& facts = *subject.row.decode;
    if (call.mode != Mode::graph || call.routing != Routing::uniform) return subject;
    if (const auto target = prefill_target(subject.row.shape, subject.row.format, call.tokens)) {
        facts.must_us = target->must;
        facts.aim_us = target->aim;
        facts.best_public_us = target->best_public;
        facts.best_public = target->who;
    }
    return subject;
}

/// The runs after the one that has a row.
void repeat(DecodeBench& bench, Subject subject) {
    Repeat repeat{.op = subject.row.op,
                  .shape = subject.row.shape,
                  .format = subject.row.format,
                  .tokens = subject.row.tokens,
                  .variant = subject.row.variant};
    for (const ResultRow& row : bench.results().rows)
        if (row.shape == repeat.shape && row.format == repeat.format && row.tokens == repeat.tokens &&
            row.routing == subject.row.routing && row.mode == to_string(subject.mode))
            repeat.us.push_back(row.timing.median);
    subject.sustained = false;
    while (repeat.us.size() < kRepeats) repeat.us.push_back(bench.measure_again(subject));
    bench.note(fmt::format("{} {}, {} tokens: {:.1f} us, {} runs, spread {:.1f}%{}", repeat.shape, repeat.format,
                           repeat.tokens, repeat.us.front(), repeat.us.size(), 100.0 * repeat.spread(),
                           repeat.spread() > kMostSpread ? ": more than 2%" : ""));
    bench.add_repeat(std::move(repeat));
}

void bench_case(DecodeBench& bench, const WeightPool& pool, const MoeCase& layer) {
    bench.progress(layer.shape->name + " " + layer.format);
    MoeData data(bench.lane(), pool, layer);
    data.reserve(layer.problem.max_tokens);
    const auto plan = make_plan(layer.problem, bench.device());
    const OwnedWorkspace workspace(plan.workspace(), bench.device());
    for (const DecodeCall& call : prefill_calls(bench.options()))
        bench.measure(many_subject(bench, data, plan, workspace, call));
    if (bench.options().clearing && layer.shape->name == kClearingShape) bench_clearing_pairs(bench, data);
    const auto counts = bench.options().token_counts();
    if (std::find(counts.begin(), counts.end(), kRepeatedTokens) == counts.end()) return;
    repeat(bench, many_subject(bench, data, plan, workspace,
                               {kRepeatedTokens, kRepeatedTokens, Routing::uniform, Mode::graph}));
}

}  // namespace

int bench_moe_prefill(const DecodeOptions& options) {
    const auto cases = prefill_cases(options);
    DecodeBench bench(options, "moe_prefill");
    const WeightPool pool(options.device);
    for (const MoeCase& layer : cases) {
        if (const Support support = supports(layer.problem, options.device))
            bench_case(bench, pool, layer);
        else
            bench.refuse("fused_moe", layer.shape->name, layer.format, support.reason);
        bench.save();
    }
    for (Rise& rise : rises_of(bench.results().rows, kRiseNoise)) {
        bench.note(fmt::format("{} {}: a token takes {:.1f}% longer with {} tokens than with {}", rise.shape,
                               rise.format, 100.0 * rise.rise, rise.tokens, rise.before));
        bench.add_rise(std::move(rise));
    }
    bench.save();
    return bench.failures() == 0 ? 0 : 1;
}

}  // namespace tokamak::cli::bench
