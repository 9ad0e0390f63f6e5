// SPDX-License-Identifier: Apache-2.0
// moe_prefill_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]: fused_moe for many tokens, every variant that
// is made for them, on layers that do not fit the L2, from a captured graph. Every layer of the graph has its own ids
// and, as far as memory allows, its own weights. The floor is the larger of reading the active experts once at the read
// ceiling of the same process and of the arithmetic at the recorded sustained rates. The recorded benchmark is `tokamak
// bench moe --preset prefill`; this one compares variants.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "core/plan_state.h"
#include "cuda/graph.h"
#include "moe_layers/moe_layers.h"

namespace {

using namespace tokamak;
using namespace tokamak::moe_layers;

// Sustained, results/h200/ceilings.json.
constexpr double kMatrixTflops = 689.0;
constexpr double kFp8Tflops = 1312.0;

std::vector<Shape> shapes() {
    const auto swiglu = moe::Activation::swiglu();
    std::vector<Shape> all;
    for (const WeightSpec& spec :
         {WeightSpec::int4(32), WeightSpec::nvfp4(), WeightSpec::bf16(), WeightSpec::fp8_block()}) {
        const bool quantized = spec.format == WeightFormat::fp8_block;
        all.push_back({"dsv3-ep8", 256, 32, 7168, 2048, 8, spec, swiglu, false, quantized});
        all.push_back({"dsv3-ep16", 256, 16, 7168, 2048, 8, spec, swiglu, false, quantized});
    }
    all.push_back({"gpt-oss-120b", 128, 128, 2880, 2880, 4, WeightSpec::mxfp4(), moe::Activation::gpt_oss(), true});
    all.push_back({"qwen3-30b-a3b", 128, 128, 2048, 768, 8, WeightSpec::bf16(), swiglu});
    all.push_back({"kimi-k2-e48", 48, 48, 7168, 2048, 8, WeightSpec::int4(32), swiglu});
    all.push_back({"dsv3-e32", 32, 32, 7168, 2048, 8, WeightSpec::nvfp4(), swiglu});
    return all;
}

bool is_of(const std::string& variant, const char* kernel) { return variant.rfind(kernel, 0) == 0; }

/// The variants for so many tokens, and the default.
std::vector<std::string> variants_for(const moe::FusedMoePlan& automatic, std::int64_t tokens) {
    const std::vector<std::string>& all = automatic.state().variants;
    const bool has_wide = std::any_of(all.begin(), all.end(), [](const auto& name) { return is_of(name, "wide"); });
    std::vector<std::string> chosen;
    for (const std::string& variant : all) {
        const bool grouped = is_of(variant, "grouped") && (tokens <= 1024 || !has_wide);
        if (is_of(variant, "wide") || grouped || variant == automatic.row_for(tokens).variant)
            chosen.push_back(variant);
    }
    return chosen;
}

/// One graph of several layers, for each variant; the default has a star.
void measure(const Job& job, nlohmann::json& rows) {
    const cuda::OwnedStream stream;
    const int layers = job.tokens <= 1024 ? 8 : job.tokens <= 4096 ? 4 : 1;
    const int samples = job.tokens <= 1024 ? 15 : 7;
    std::mt19937 random(static_cast<unsigned>(job.tokens));
    Load load;
    std::vector<OwnedTensor> ids;
    for (int layer = 0; layer < layers; ++layer) ids.push_back(random_ids(job.shape, job.tokens, random, load));
    const double bytes = static_cast<double>(load.experts * expert_bytes(job.problem)) / layers;
    const double flops = 6.0 * static_cast<double>(load.routes) / layers *
                         static_cast<double>(job.shape.hidden * job.shape.intermediate);
    const double peak = job.shape.quantized ? kFp8Tflops : kMatrixTflops;
    const double floor_us = std::max(bytes / job.read_gbps * 1e-3, flops / peak * 1e-6);
    const moe::FusedMoePlan automatic = make_plan(job.problem, kGpu);
    const std::string& chosen = automatic.row_for(job.tokens).variant;
    for (const std::string& variant : variants_for(automatic, job.tokens)) {
        PlanOptions options;
        options.variant = variant;
        const moe::FusedMoePlan plan = make_plan(job.problem, kGpu, options);
        const OwnedWorkspace workspace(plan.workspace(), kGpu);
        const cuda::CapturedGraph graph(stream, [&] {
            for (int layer = 0; layer < layers; ++layer)
                run(plan, layer_args(job.shape, job.problem, job.in, layer, ids[static_cast<std::size_t>(layer)]),
                    workspace, stream.stream());
        });
        const cuda::Quantiles us = cuda::time_graph(stream, graph, 2, samples);
        const double tflops = flops * layers / us.median * 1e-6;
        rows.push_back(timed_row(job, variant, variant == chosen, us, layers));
        rows.back().update({{"bytes", bytes},
                            {"tflops", tflops},
                            {"floor_us", floor_us},
                            {"floor_share", floor_us * layers / us.median}});
        fmt::print("{:13} {:9} M={:<5} {:16}{} {:7.1f} us  floor {:6.1f}  share {:5.1f}%  {:5.0f} TFLOP/s\n",
                   job.shape.name, format_name(job.shape), job.tokens, variant, variant == chosen ? '*' : ' ',
                   us.median / layers, floor_us, 100.0 * floor_us * layers / us.median, tflops);
        std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
    return run_program({.name = "moe_prefill_bench",
                        .shapes = shapes(),
                        .tokens = {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768},
                        .measure = measure},
                       argc, argv);
}
