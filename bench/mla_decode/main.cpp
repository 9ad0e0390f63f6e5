// SPDX-License-Identifier: Apache-2.0
// Times every configuration of sparse_attention on the decode shapes in replayed graphs; a line per shape and token
// count, all figures as JSON.  mla_decode_probe OUT.json [shape prefix] [format] [comma-separated token counts]
// [variants' common beginning; the chosen one is timed too]
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/build_info.h"
#include "core/plan_state.h"
#include "cuda/graph.h"
#include "mla_decode/shapes.h"

namespace tokamak::bench {
namespace {

struct Timing {
    std::string variant;
    cuda::Quantiles us;
};

/// Calls per replay: together they read several times the L2 cache, but no more than keeps a replay short.
int calls_per_replay(double bytes) { return static_cast<int>(std::clamp(250e6 / bytes, 3.0, 64.0)); }

Timing time_variant(const cuda::OwnedStream& stream, const DecodeData& data, int calls, const PlanOptions& options) {
    const auto plan = mla::make_plan(data.problem(), Device::cuda(), options);
    const OwnedWorkspace workspace(plan.workspace(), Device::cuda());
    const cuda::CapturedGraph graph(stream, [&] {
        for (int c = 0; c < calls; ++c) mla::run(plan, data.args(c), workspace, stream.stream());
    });
    cuda::Quantiles us = cuda::time_graph(stream, graph, 1, 5);
    us.median /= calls;
    us.p10 /= calls;
    us.p90 /= calls;
    return {plan.row_for(data.problem().max_tokens).variant, us};
}

/// The pipelined form without its name.
std::string short_name(const std::string& variant) {
    const std::string usual = "sparse_decode_";
    return variant.starts_with(usual) ? variant.substr(usual.size()) : variant;
}

void time_shape(const DecodeShape& shape, std::int64_t tokens, const std::string& only, nlohmann::json& rows) {
    const cuda::OwnedStream stream;
    const int calls = calls_per_replay(DecodeData(shape, tokens, 0).bytes());
    const DecodeData data(shape, tokens, calls);
    const auto plan = mla::make_plan(data.problem(), Device::cuda());
    const std::string chosen = plan.row_for(tokens).variant;
    std::vector<Timing> timings;
    for (const std::string& variant : plan.state().variants)
        if (variant.starts_with(only) || variant == chosen)
            timings.push_back(time_variant(stream, data, calls, {.variant = variant}));
    std::sort(timings.begin(), timings.end(), [](const auto& a, const auto& b) { return a.us.median < b.us.median; });
    std::string line = fmt::format("{:8} {:9} T={:<3}", shape.name, to_string(shape.format), tokens);
    for (std::size_t i = 0; i < timings.size(); ++i) {
        const Timing& t = timings[i];
        const bool is_chosen = t.variant == chosen;
        if (i < 5 || is_chosen)
            line += fmt::format(" {}{} {:.1f}", is_chosen ? "*" : "", short_name(t.variant), t.us.median);
        rows.push_back({{"op", "sparse_attention"},
                        {"shape", shape.name},
                        {"format", to_string(shape.format)},
                        {"tokens", tokens},
                        {"mode", "graph"},
                        {"variant", t.variant},
                        {"chosen", is_chosen},
                        {"us_median", t.us.median},
                        {"us_p10", t.us.p10},
                        {"us_p90", t.us.p90},
                        {"bytes", data.bytes()},
                        {"flops", data.flops()}});
    }
    const double best = timings[0].us.median;
    fmt::print("{} | {:.0f} TFLOP/s {:.0f} GB/s\n", line, data.flops() / best * 1e-6, data.bytes() / best * 1e-3);
    std::fflush(stdout);
}

int run(int argc, char** argv) {
    const std::string prefix = argc > 2 ? argv[2] : "";
    const std::string format = argc > 3 ? argv[3] : "";
    std::vector<std::int64_t> counts = {1, 8, 64, 128};
    if (argc > 4) {
        counts.clear();
        std::stringstream list(argv[4]);
        for (std::string item; std::getline(list, item, ',');) counts.push_back(std::stoll(item));
    }
    nlohmann::json rows = nlohmann::json::array();
    for (const DecodeShape& shape : decode_shapes()) {
        if (!shape.name.starts_with(prefix) || (!format.empty() && format != to_string(shape.format))) continue;
        for (const std::int64_t tokens : counts) time_shape(shape, tokens, argc > 5 ? argv[5] : "", rows);
    }
    const nlohmann::json result = {{"tokamak", build_info::version()},
                                   {"commit", build_info::commit()},
                                   {"cuda_sources", build_info::cuda_sources_hash()},
                                   {"device", device_info(Device::cuda()).name},
                                   {"rows", rows}};
    std::ofstream(argv[1]) << result.dump(1) << "\n";
    return 0;
}

}  // namespace
}  // namespace tokamak::bench

int main(int argc, char** argv) {
    if (argc < 2) return 2;
    try {
        return tokamak::bench::run(argc, argv);
    } catch (const std::exception& error) {
        fmt::print(stderr, "{}\n", error.what());
        return 1;
    }
}
