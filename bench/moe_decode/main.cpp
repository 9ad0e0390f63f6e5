// SPDX-License-Identifier: Apache-2.0
// moe_decode_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]: fused_moe for few tokens on layers that do not
// fit the L2, from a captured graph. Every layer of the graph has its own ids and, as far as memory allows, its own
// weights. The read floor is the time to read the active experts' packed weights once at the read ceiling of the same
// process.
#include <fmt/format.h>

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

/// The default variant with routing inside the launch, by softmax and by sigmoid in groups.
void measure_logits(const Job& job, const std::vector<OwnedTensor>& ids, std::mt19937& random) {
    const cuda::OwnedStream stream;
    std::vector<OwnedTensor> logits;
    for (const OwnedTensor& layer : ids) logits.push_back(logits_for(job.shape, layer, random));
    for (const bool grouped : {false, true}) {
        moe::FusedMoeProblem problem = job.problem;
        problem.route = moe::RouteRule{};
        if (grouped)
            problem.route =
                moe::RouteRule{.method = moe::RouteMethod::sigmoid_grouped, .num_groups = 8, .top_groups = 8};
        const moe::FusedMoePlan plan = make_plan(problem, kGpu);
        const OwnedWorkspace workspace(plan.workspace(), kGpu);
        const cuda::CapturedGraph graph(stream, [&] {
            for (std::size_t layer = 0; layer < kLayers; ++layer) {
                moe::FusedMoeArgs args = layer_args(job.shape, problem, job.in, static_cast<int>(layer), ids[layer]);
                args.ids = args.weights = Tensor();
                args.logits = logits[layer];
                run(plan, args, workspace, stream.stream());
            }
        });
        const cuda::Quantiles us = cuda::time_graph(stream, graph, 3, 25);
        fmt::print("{:14} {:13} M={:<3} {:22}  {:7.1f} us  from logits, {}\n", job.shape.name, format_name(job.shape),
                   job.tokens, plan.row_for(job.tokens).variant, us.median / kLayers,
                   grouped ? "sigmoid in 8 groups" : "softmax");
    }
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
        if (job.tokens > 8 && variant.rfind("decode", 0) == 0 && variant != chosen) continue;
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
        rows.push_back({{"op", "fused_moe"},
                        {"shape", job.shape.name},
                        {"format", format_name(job.shape)},
                        {"tokens", job.tokens},
                        {"routing", "uniform"},
                        {"mode", "graph"},
                        {"variant", variant},
                        {"default", variant == chosen},
                        {"us_median", us.median / kLayers},
                        {"us_p10", us.p10 / kLayers},
                        {"us_p90", us.p90 / kLayers},
                        {"bytes", bytes},
                        {"floor_us", floor_us},
                        {"ceiling_share", floor_us * kLayers / us.median}});
        fmt::print("{:14} {:13} M={:<3} {:22}{} {:7.1f} us  floor {:6.1f}  share {:5.1f}%\n", job.shape.name,
                   format_name(job.shape), job.tokens, variant, variant == chosen ? '*' : ' ', us.median / kLayers,
                   floor_us, 100.0 * floor_us * kLayers / us.median);
    }
    if (job.tokens <= 8) measure_logits(job, ids, random);
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
