// SPDX-License-Identifier: Apache-2.0
// moe_decode_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]: fused_moe for few tokens on layers that do not
// fit the L2, from a captured graph. Every layer of the graph has its own ids and, as far as memory allows, its own
// weights. The read floor is the time to read the active experts' packed weights once at the read ceiling of the same
// process. With BENCH_DEFAULTS in the environment only the variants that plans choose are measured.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "core/plan_state.h"
#include "cuda/graph.h"
#include "moe_layers/moe_layers.h"

namespace {

using namespace tokamak;
using namespace tokamak::moe_layers;

constexpr int kLayers = 8;

std::vector<Shape> shapes() {
    const auto swiglu = moe::Activation::swiglu();
    std::vector<Shape> all = {
        {"kimi-k2-e48", 48, 48, 7168, 2048, 8, WeightSpec::int4(32), swiglu},
        {"gpt-oss-120b", 128, 128, 2880, 2880, 4, WeightSpec::mxfp4(), moe::Activation::gpt_oss(), true},
        {"v4-flash-tp4", 256, 256, 4096, 512, 6, WeightSpec::mxfp4(), moe::Activation::swiglu_clamped(10.0F)},
        {"qwen3-30b-a3b", 128, 128, 2048, 768, 8, WeightSpec::int4(128), swiglu},
        {"dsv3-tp8", 256, 256, 7168, 256, 8, WeightSpec::int4(32), swiglu},
        {"qwen3-30b-a3b", 128, 128, 2048, 768, 8, WeightSpec::bf16(), swiglu},
        {"dsv3-e32", 32, 32, 7168, 2048, 8, WeightSpec::nvfp4(), swiglu}};
    for (const bool quantized : {true, false}) {
        all.push_back({"qwen3.5-35b", 256, 256, 2048, 512, 8, WeightSpec::fp8_block(), swiglu, false, quantized});
        all.push_back({"dsv3-e32", 32, 32, 7168, 2048, 8, WeightSpec::fp8_block(), swiglu, false, quantized});
    }
    return all;
}

/// Logits whose best experts are those of `ids`.
OwnedTensor logits_for(const Shape& shape, const OwnedTensor& ids, std::mt19937& random) {
    const OwnedTensor chosen = OwnedTensor::copy_of(ids, Device::cpu());
    const std::int64_t tokens = chosen.view().size(0);
    OwnedTensor host = OwnedTensor::allocate(DType::f32, {tokens, shape.experts});
    std::uniform_real_distribution<float> uniform(0.0F, 1.0F);
    for (std::int64_t i = 0; i < host.view().elements(); ++i) host.as<float>()[i] = uniform(random);
    for (std::int64_t i = 0; i < chosen.view().elements(); ++i)
        host.as<float>()[i / shape.top_k * shape.experts + chosen.as<std::int32_t>()[i]] += 2.0F;
    return OwnedTensor::copy_of(host, kGpu);
}

/// Replays graphs in turn, so that all of them see the same clocks; the median of each in microseconds.
std::vector<double> time_in_turn(const cuda::OwnedStream& stream,
                                 const std::vector<std::unique_ptr<cuda::CapturedGraph>>& graphs) {
    constexpr int warmups = 3;
    constexpr int samples = 25;
    std::vector<std::vector<float>> us(graphs.size());
    for (int i = 0; i < warmups + samples; ++i)
        for (std::size_t g = 0; g < graphs.size(); ++g) {
            const float time = cuda::time_once(stream, [&] { graphs[g]->replay(); });
            if (i >= warmups) us[g].push_back(time);
        }
    std::vector<double> medians;
    for (std::vector<float>& times : us) medians.push_back(cuda::quantiles(std::move(times)).median);
    return medians;
}

/// The default variant from ids, from logits by softmax and from logits by sigmoid in groups, in turn.
void measure_logits(const Job& job, const std::vector<OwnedTensor>& ids, std::mt19937& random) {
    const cuda::OwnedStream stream;
    std::vector<OwnedTensor> logits;
    for (const OwnedTensor& layer : ids) logits.push_back(logits_for(job.shape, layer, random));
    // A group without one of the token's experts is left out: the experts stay the same.
    const moe::RouteRule grouped{.method = moe::RouteMethod::sigmoid_grouped, .num_groups = 8, .top_groups = 7};
    const OwnedTensor bias = OwnedTensor::allocate(DType::f32, {job.shape.experts}, kGpu);
    fill_bytes(bias.view().data, kGpu, 0, bias.view().bytes());
    const std::pair<const char*, std::optional<moe::RouteRule>> rules[] = {
        {"from ids", std::nullopt}, {"softmax", moe::RouteRule{}}, {"sigmoid, bias, groups", grouped}};
    std::vector<moe::FusedMoePlan> plans;
    std::vector<OwnedWorkspace> workspaces;
    std::vector<std::unique_ptr<cuda::CapturedGraph>> graphs;
    for (const auto& [name, rule] : rules) {
        moe::FusedMoeProblem problem = job.problem;
        problem.route = rule;
        plans.push_back(make_plan(problem, kGpu));
        workspaces.emplace_back(plans.back().workspace(), kGpu);
        graphs.push_back(std::make_unique<cuda::CapturedGraph>(stream, [&] {
            for (std::size_t layer = 0; layer < kLayers; ++layer) {
                moe::FusedMoeArgs args = layer_args(job.shape, problem, job.in, static_cast<int>(layer), ids[layer]);
                if (problem.route) {
                    args.ids = args.weights = Tensor();
                    args.logits = logits[layer];
                    if (problem.route->method == moe::RouteMethod::sigmoid_grouped) args.correction_bias = bias;
                }
                run(plans.back(), args, workspaces.back(), stream.stream());
            }
        }));
    }
    const std::vector<double> us = time_in_turn(stream, graphs);
    for (std::size_t g = 0; g < graphs.size(); ++g)
        fmt::print("{:14} {:13} M={:<3} {:22}  {:7.2f} us  {:+6.2f}  {}\n", job.shape.name, format_name(job.shape),
                   job.tokens, plans[g].row_for(job.tokens).variant, us[g] / kLayers, (us[g] - us[0]) / kLayers,
                   rules[g].first);
}

/// One graph of kLayers layers, for each variant; the default has a star.
void measure(const Job& job, nlohmann::json& rows) {
    const cuda::OwnedStream stream;
    std::mt19937 random(static_cast<unsigned>(job.tokens));
    Load load;
    std::vector<OwnedTensor> ids;
    for (int layer = 0; layer < kLayers; ++layer) ids.push_back(random_ids(job.shape, job.tokens, random, load));
    const double bytes = static_cast<double>(load.experts * expert_bytes(job.problem)) / kLayers;
    const double floor_us = bytes / job.read_gbps * 1e-3;
    const moe::FusedMoePlan automatic = make_plan(job.problem, kGpu);
    const std::string& chosen = automatic.row_for(job.tokens).variant;
    for (const std::string& variant : automatic.state().variants) {
        const bool slow = job.tokens > 8 && variant.rfind("decode", 0) == 0;
        if ((slow || std::getenv("BENCH_DEFAULTS") != nullptr) && variant != chosen) continue;
        PlanOptions options;
        options.variant = variant;
        const moe::FusedMoePlan plan = make_plan(job.problem, kGpu, options);
        const OwnedWorkspace workspace(plan.workspace(), kGpu);
        const cuda::CapturedGraph graph(stream, [&] {
            for (std::size_t layer = 0; layer < kLayers; ++layer)
                run(plan, layer_args(job.shape, job.problem, job.in, static_cast<int>(layer), ids[layer]), workspace,
                    stream.stream());
        });
        const cuda::Quantiles us = cuda::time_graph(stream, graph, 3, 25);
        rows.push_back(timed_row(job, variant, variant == chosen, us, kLayers));
        rows.back().update(
            {{"bytes", bytes}, {"floor_us", floor_us}, {"ceiling_share", floor_us * kLayers / us.median}});
        fmt::print("{:14} {:13} M={:<3} {:22}{} {:7.1f} us  floor {:6.1f}  share {:5.1f}%\n", job.shape.name,
                   format_name(job.shape), job.tokens, variant, variant == chosen ? '*' : ' ', us.median / kLayers,
                   floor_us, 100.0 * floor_us * kLayers / us.median);
    }
    measure_logits(job, ids, random);
}

}  // namespace

int main(int argc, char** argv) {
    return run_program({.name = "moe_decode_bench",
                        .shapes = shapes(),
                        .tokens = {1, 2, 4, 8, 16, 32, 64},
                        .least_max_tokens = 64,
                        .measure = measure},
                       argc, argv);
}
