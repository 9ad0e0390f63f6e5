// SPDX-License-Identifier: Apache-2.0
// What clearing costs. The library's combine overwrites and clears nothing; these stand-ins show what an atomic one
// would pay for its accumulators.
#include <fmt/format.h>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/moe_bench.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kMaxTokens = 8192;
constexpr std::int64_t kHidden = 7168;
constexpr int kTopK = 8;
constexpr int kLayers = 61;
constexpr int kReplays = 15;
constexpr int kPartialSets = 8;  ///< of partial results that layers take in turn

enum class Clearing : std::uint8_t { live_rows, all_rows, nothing };

struct Buffers {
    const std::uint8_t* partials;  ///< bf16 [sets][tokens, top_k, hidden]
    float* accumulators;           ///< f32 [max_tokens, hidden]
    void* out;                     ///< bf16 [tokens, hidden]
};

constexpr const char* name_of(Clearing clearing) {
    switch (clearing) {
        case Clearing::live_rows: return "standin_atomic_clears_live_rows";
        case Clearing::all_rows: return "standin_atomic_clears_max_tokens";
        case Clearing::nothing: return "standin_overwrite_clears_nothing";
    }
    return "";
}

void combine(const DecodeBench& bench, const Buffers& buffers, Clearing clearing, std::int64_t tokens, int layer) {
    const Stream stream = bench.stream().stream();
    const std::uint8_t* const partials = buffers.partials + layer % kPartialSets * tokens * kTopK * kHidden * 2;
    if (clearing == Clearing::nothing) return sum_rows(buffers.out, partials, tokens, kTopK, kHidden, stream);
    const std::int64_t rows = clearing == Clearing::all_rows ? kMaxTokens : tokens;
    fill_bytes(buffers.accumulators, bench.device(), 0, static_cast<std::size_t>(rows * kHidden) * sizeof(float),
               stream);
    add_atomically(buffers.accumulators, partials, tokens, kTopK, kHidden, stream);
    round_rows(buffers.out, buffers.accumulators, tokens, kHidden, stream);
}

ResultRow timed(const DecodeBench& bench, const Buffers& buffers, Clearing clearing, std::int64_t tokens, int layers) {
    const cuda::CapturedGraph graph(bench.stream(), [&] {
        for (int layer = 0; layer < layers; ++layer) combine(bench, buffers, clearing, tokens, layer);
    });
    const cuda::Quantiles us = cuda::time_graph(bench.stream(), graph, 2, kReplays);
    ResultRow row;
    row.op = "clearing";
    row.shape = fmt::format("h7168-k8-{}-layer{}", layers, layers == 1 ? "" : "s");
    row.format = "f32";
    row.tokens = tokens;
    row.routing = "none";
    row.mode = to_string(Mode::graph);
    row.variant = name_of(clearing);
    row.timing = {us.median, us.p10, us.p90, kReplays};
    row.decode = DecodeFacts{};
    row.decode->source = "option";
    row.decode->device_tokens = tokens;
    row.decode->launches = static_cast<double>(graph.nodes());
    return row;
}

}  // namespace

void bench_clearing(DecodeBench& bench, const WeightPool& pool) {
    constexpr std::int64_t kMost = 64;
    const std::size_t partials = std::size_t{kPartialSets} * kMost * kTopK * kHidden;
    fill_normal(pool.data(), partials, 33, bench.stream().stream());
    const OwnedTensor accumulators = OwnedTensor::allocate(DType::f32, {kMaxTokens, kHidden}, bench.device());
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {kMost, kHidden}, bench.device());
    const Buffers buffers{pool.data(), accumulators.as<float>(), out.view().data};
    for (const std::int64_t tokens : {1, 8, 64})
        for (const int layers : {1, kLayers})
            for (const Clearing clearing : {Clearing::nothing, Clearing::live_rows, Clearing::all_rows})
                bench.add(timed(bench, buffers, clearing, tokens, layers));
}

}  // namespace tokamak::cli::bench
