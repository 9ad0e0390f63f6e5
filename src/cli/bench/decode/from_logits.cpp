// SPDX-License-Identifier: Apache-2.0
// What routing inside the call costs: whole layers from router logits and the same calls from the ids and weights that
// those logits give, replayed in turn.
#include <vector>

#include "cli/bench/decode/logits_data.h"
#include "cli/bench/decode/moe_bench.h"
#include "cli/bench/decode/targets.h"
#include "cli/bench/random_tensor.h"
#include "tune/select.h"

namespace tokamak::cli::bench {
namespace {

/// A plan with its workspace.
struct Planned {
    Planned(const moe::FusedMoeProblem& problem, Device device)
        : plan(make_plan(problem, device)), workspace(plan.workspace(), device) {}
    moe::FusedMoePlan plan;
    OwnedWorkspace workspace;
};

moe::FusedMoeProblem with_route(const MoeCase& layer) {
    moe::FusedMoeProblem problem = layer.problem;
    problem.route = route_rule(*layer.shape);
    return problem;
}

/// The same calls of both kinds, as many as a replay makes. Set 0 is the last: that is what `out` then holds.
class Calls {
  public:
    Calls(const DecodeBench& bench, MoeData& data, std::int64_t tokens)
        : data_(data), sets_(uniform_calls(bench, data, tokens)) {
        const auto to_device = [&](const OwnedTensor& tensor) {
            return tensor.view() ? OwnedTensor::copy_of(tensor, bench.device()) : OwnedTensor();
        };
        for (std::size_t set = sets_.size(); set-- > 0;) {
            const RoutedLogits host =
                routed_logits(*data.layer().shape, tokens, static_cast<std::uint32_t>(set) * 7919 + 17);
            inputs_.push_back(
                {to_device(host.logits), to_device(host.bias), to_device(host.ids), to_device(host.weights)});
        }
    }
    void record_ids(const Planned& planned, Stream stream) const {
        for (std::size_t i = 0; i < sets_.size(); ++i) {
            moe::FusedMoeArgs args = sets_[i];
            args.ids = inputs_[i].ids;
            args.weights = inputs_[i].weights;
            moe::run(planned.plan, args, planned.workspace, stream);
        }
    }
    void record_logits(const Planned& planned, Stream stream) const {
        for (std::size_t i = 0; i < sets_.size(); ++i) {
            moe::FusedMoeArgs args = sets_[i];
            args.ids = args.weights = Tensor();
            args.logits = inputs_[i].logits;
            args.correction_bias = inputs_[i].bias.view();
            moe::run(planned.plan, args, planned.workspace, stream);
        }
    }
    [[nodiscard]] int count() const noexcept { return static_cast<int>(sets_.size()); }
    /// What the latest replay left.
    [[nodiscard]] OwnedTensor result() const {
        return OwnedTensor::copy_of(data_.out().first_rows(sets_.back().tokens));
    }

  private:
    MoeData& data_;
    std::vector<RoutedLogits> inputs_;  ///< on the device
    std::vector<moe::FusedMoeArgs> sets_;
};

RoutingCost measure(DecodeBench& bench, MoeData& data, const Planned& ids, const Planned& logits, std::int64_t tokens) {
    const MoeCase& layer = data.layer();
    const Stream stream = bench.stream().stream();
    const Calls calls(bench, data, tokens);
    const cuda::CapturedGraph from_ids(bench.stream(), [&] { calls.record_ids(ids, stream); });
    const cuda::CapturedGraph from_logits(bench.stream(), [&] { calls.record_logits(logits, stream); });
    const auto result_of = [&](const cuda::CapturedGraph& graph) {
        fill_bytes(data.out().data, bench.device(), 0xFF, data.out().bytes(), stream);
        graph.replay();
        synchronize(bench.device(), stream);
        return calls.result();
    };
    const OwnedTensor expected = result_of(from_ids);
    const Distance error = distance(result_of(from_logits), widened(expected));
    const PairTimes times = bench.time_pairs(from_logits, from_ids, calls.count());
    const tune::Interval more = tune::median_interval(times.differences());
    return {.op = logits.plan.op(),
            .shape = layer.shape->name,
            .format = layer.format,
            .tokens = tokens,
            .max_tokens = layer.problem.max_tokens,
            .method = layer.shape->routing.method == moe::RouteMethod::softmax ? "softmax" : "sigmoid_grouped",
            .variant = logits.plan.row_for(tokens).variant,
            .us = tune::median_interval(times.first).median,
            .us_from_ids = tune::median_interval(times.second).median,
            .more_us = more.median,
            .more_low = more.low,
            .more_high = more.high,
            .must_us = from_logits_target(layer.shape->name, layer.format, tokens),
            .launches = static_cast<double>(from_logits.nodes()) / calls.count(),
            .pairs = static_cast<int>(times.first.size()),
            .correct = error.within(moe_limit(layer))};
}

}  // namespace

void bench_from_logits(DecodeBench& bench, MoeData& data) {
    const MoeCase& layer = data.layer();
    if (const Support support = supports(with_route(layer), bench.device()); !support)
        return bench.refuse("from_logits", layer.shape->name, layer.format, support.reason);
    const Planned ids(layer.problem, bench.device());
    const Planned logits(with_route(layer), bench.device());
    bench.progress(layer.shape->name + " " + layer.format + " from logits");
    for (const std::int64_t tokens : from_logits_counts(bench.options(), layer))
        bench.add_routing(measure(bench, data, ids, logits, tokens));
}

}  // namespace tokamak::cli::bench
