// SPDX-License-Identifier: Apache-2.0
// What clearing the output costs where the wide kernel adds its results to it: the same calls with the clearing and
// without, replayed in turn. A call that accumulates into `out` and has no shared output clears nothing and reads
// nothing instead, so it is the same kernel with the clearing left out.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/bench/decode/moe_bench.h"
#include "core/plan_state.h"
#include "tune/select.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kRows[] = {16, 32, 64, 128, 256, 512};  ///< of an expert with uniform routing
constexpr int kPairs = 21;

/// The variant of the wide kernel that a call of so many tokens takes, or the plan's first one where it takes another
/// kernel; empty: there is none.
std::string wide_variant(const moe::FusedMoePlan& plan, std::int64_t tokens) {
    const auto is_wide = [](const std::string& variant) { return variant.starts_with("wide_"); };
    const detail::PlanState& state = plan.state();
    const std::string& chosen = state.table[state.row_index(tokens)].variant;
    if (is_wide(chosen)) return chosen;
    const auto first = std::ranges::find_if(state.variants, is_wide);
    return first == state.variants.end() ? std::string() : *first;
}

/// Both graphs of a token count.
class Pair {
  public:
    Pair(const DecodeBench& bench, MoeData& data, const moe::FusedMoePlan& plan, const Workspace& workspace,
         std::int64_t tokens)
        : bench_(bench),
          args_(uniform_calls(bench, data, tokens)),
          clearing_(bench.stream(), [&] { record(plan, workspace, false); }),
          adding_(bench.stream(), [&] { record(plan, workspace, true); }) {
        fill_bytes(data.out().data, bench.device(), 0, data.out().bytes(), bench.stream().stream());
        adding_.replay();
        clearing_.replay();
        synchronize(bench.device(), bench.stream().stream());
    }

    [[nodiscard]] ClearingCost measure() const {
        std::vector<double> with;
        std::vector<double> without;
        for (int i = 0; i < kPairs; ++i) {
            if (i % 2 == 0) with.push_back(time(clearing_));
            without.push_back(time(adding_));
            if (i % 2 == 1) with.push_back(time(clearing_));
        }
        const tune::Interval ratio = tune::ratio_interval(with, without);
        return {.us = tune::median_interval(with).median,
                .us_without = tune::median_interval(without).median,
                .more = ratio.median - 1.0,
                .more_low = ratio.low - 1.0,
                .more_high = ratio.high - 1.0,
                .pairs = kPairs};
    }

  private:
    void record(const moe::FusedMoePlan& plan, const Workspace& workspace, bool accumulate) {
        for (moe::FusedMoeArgs& args : args_) {
            args.accumulate_into_out = accumulate;
            moe::run(plan, args, workspace, bench_.stream().stream());
        }
    }
    [[nodiscard]] double time(const cuda::CapturedGraph& graph) const {
        graph.replay();  // the first one behind another graph takes longer
        return cuda::time_once(bench_.stream(), [&] { graph.replay(); }) / static_cast<double>(args_.size());
    }

    const DecodeBench& bench_;
    std::vector<moe::FusedMoeArgs> args_;
    cuda::CapturedGraph clearing_;
    cuda::CapturedGraph adding_;
};

}  // namespace

void bench_clearing_pairs(DecodeBench& bench, MoeData& data) {
    const MoeCase& layer = data.layer();
    const auto automatic = make_plan(layer.problem, bench.device(), {.combine = Combine::atomic});
    for (const std::int64_t rows : kRows) {
        const std::int64_t tokens = rows * layer.problem.num_experts / layer.problem.top_k;
        if (tokens > layer.problem.max_tokens) continue;
        const std::string variant = wide_variant(automatic, tokens);
        if (variant.empty()) return;
        const auto plan = make_plan(layer.problem, bench.device(), {.variant = variant, .combine = Combine::atomic});
        const OwnedWorkspace workspace(plan.workspace(), bench.device());
        const Pair pair(bench, data, plan, workspace, tokens);
        const Distance limit = moe_limit(layer);
        // Sums of eight results in bf16, each rounded.
        const bool correct =
            data.check(data.out(), Routing::uniform, tokens).within({2 * limit.norm, 2 * limit.largest});
        ClearingCost cost = pair.measure();
        cost.op = "fused_moe";
        cost.shape = layer.shape->name;
        cost.format = layer.format;
        cost.tokens = tokens;
        cost.rows = rows;
        cost.variant = variant;
        cost.correct = correct;
        bench.add_clearing(std::move(cost));
    }
}

}  // namespace tokamak::cli::bench
