// SPDX-License-Identifier: Apache-2.0
// moe_decode_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]: fused_moe for few tokens on layers that do not
// fit the L2, from a captured graph. Every layer of the graph has its own ids and, as far as memory allows, its own
// weights. The read floor is the time to read the active experts' packed weights once at the read ceiling of the same
// process. With BENCH_DEFAULTS in the environment only the variants that plans choose are measured.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/build_info.h"
#include "core/plan_state.h"
#include "cuda/ceilings/read.h"
#include "cuda/graph.h"
#include "formats/packed_tile.h"
#include "formats/scalar.h"
#include "tokamak/moe.h"

namespace {

using namespace tokamak;

constexpr int kLayers = 8;
constexpr std::size_t kPoolBytes = 6'000'000'000;
const Device kGpu = Device::cuda();

struct Shape {
    const char* name;
    int experts;
    std::int64_t hidden;
    std::int64_t intermediate;
    int top_k;
    WeightSpec weights;
    moe::Activation activation;
    bool biases = false;
    bool quantized = false;  ///< fp8_block: activations too
};

/// As results name it.
std::string format_name(const Shape& shape) {
    const bool a16 = shape.weights.format == WeightFormat::fp8_block && !shape.quantized;
    return to_string(shape.weights) + (a16 ? "_a16" : "");
}

std::vector<Shape> shapes() {
    const auto swiglu = moe::Activation::swiglu();
    std::vector<Shape> all = {
        {"kimi-k2-e48", 48, 7168, 2048, 8, WeightSpec::int4(32), swiglu},
        {"gpt-oss-120b", 128, 2880, 2880, 4, WeightSpec::mxfp4(), moe::Activation::gpt_oss(), true},
        {"v4-flash-tp4", 256, 4096, 512, 6, WeightSpec::mxfp4(), moe::Activation::swiglu_clamped(10.0F)},
        {"qwen3-30b-a3b", 128, 2048, 768, 8, WeightSpec::int4(128), swiglu},
        {"dsv3-tp8", 256, 7168, 256, 8, WeightSpec::int4(32), swiglu},
        {"qwen3-30b-a3b", 128, 2048, 768, 8, WeightSpec::bf16(), swiglu}};
    all.push_back({"dsv3-e32", 32, 7168, 2048, 8, WeightSpec::nvfp4(), swiglu});
    for (const bool quantized : {true, false}) {
        all.push_back({"qwen3.5-35b", 256, 2048, 512, 8, WeightSpec::fp8_block(), swiglu, false, quantized});
        all.push_back({"dsv3-e32", 32, 7168, 2048, 8, WeightSpec::fp8_block(), swiglu, false, quantized});
    }
    return all;
}

/// Turns byte `at` of a tile (or of the scales between tiles) into one of a moderate number, whatever it is read as.
std::uint8_t moderate(const WeightSpec& spec, const formats::TileShape& tile, std::size_t at, std::uint8_t byte) {
    switch (spec.format) {
        case WeightFormat::bf16: return at % 2 == 1 ? static_cast<std::uint8_t>(0x3B | (byte & 0x80)) : byte;
        case WeightFormat::fp8_block:  // f32 scales near 2^-10, and no NaN code
            return static_cast<std::uint8_t>(at % 4 == 3 ? 0x38 | (byte & 0x83) : byte & 0xFE);
        case WeightFormat::int4:  // scales near 2^-8
            if (at < tile.code_bytes || at % 2 == 0) return byte;
            return spec.scale_dtype == DType::f16 ? 0x1C : 0x3B;
        case WeightFormat::nvfp4: return at < tile.code_bytes ? byte : 0x30;  // scales 0.5
        case WeightFormat::mxfp4: return at < tile.code_bytes ? byte : static_cast<std::uint8_t>(119 + byte % 3);
    }
    return byte;
}

/// Random tiles with moderate scales, repeated over the pool: any packed matrix may start at any tile.
void fill_pool(const OwnedTensor& pool, const WeightSpec& spec) {
    const formats::TileShape tile = formats::tile_shape(spec);
    constexpr std::size_t distinct = 4099;  // host-made tiles; copies of them fill the pool
    std::mt19937_64 random(7);
    std::vector<std::uint8_t> host(distinct * tile.bytes);
    for (std::size_t i = 0; i + 8 <= host.size(); i += 8) {
        const std::uint64_t bits = random();
        std::memcpy(&host[i], &bits, 8);
    }
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = moderate(spec, tile, i % tile.bytes, host[i]);
    const std::size_t bytes = pool.view().bytes();
    auto* const data = pool.as<std::uint8_t>();
    copy_bytes(data, kGpu, host.data(), Device::cpu(), std::min(host.size(), bytes));
    for (std::size_t done = host.size(); done < bytes; done += host.size())
        copy_bytes(data + done, kGpu, data, kGpu, std::min(host.size(), bytes - done));
    synchronize(kGpu);
}

OwnedTensor random_bf16(std::initializer_list<std::int64_t> shape, unsigned seed) {
    OwnedTensor host = OwnedTensor::allocate(DType::bf16, shape);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < host.view().elements(); ++i)
        host.as<std::uint16_t>()[i] = scalar::float_to_bf16(normal(random));
    return OwnedTensor::copy_of(host, kGpu);
}

/// Uniform routing without repetition, ids of one layer; counts the experts that it touches.
OwnedTensor random_ids(const Shape& shape, std::int64_t tokens, std::mt19937& random, std::size_t& active) {
    OwnedTensor host = OwnedTensor::allocate(DType::i32, {tokens, shape.top_k});
    std::set<int> touched;
    for (std::int64_t token = 0; token < tokens; ++token) {
        std::set<int> own;
        while (own.size() < static_cast<std::size_t>(shape.top_k))
            own.insert(static_cast<int>(random() % static_cast<unsigned>(shape.experts)));
        std::copy(own.begin(), own.end(), host.as<std::int32_t>() + token * shape.top_k);
        touched.insert(own.begin(), own.end());
    }
    active += touched.size();
    return OwnedTensor::copy_of(host, kGpu);
}

struct Inputs {
    OwnedTensor pool;
    std::size_t layer_bytes = 0;  ///< from one layer's weights to the next
    OwnedTensor x, weights, gate_up_bias, down_bias, out;
};

Inputs make_inputs(const Shape& shape, const moe::FusedMoeProblem& problem) {
    const PackedLayout gate_up = moe::gate_up_layout(problem);
    const PackedLayout down = moe::down_layout(problem);
    const std::size_t layer = (gate_up.matrix_bytes + down.matrix_bytes) * static_cast<std::size_t>(shape.experts);
    const std::size_t layers = std::clamp<std::size_t>(kPoolBytes / layer, 1, kLayers);
    Inputs in;
    in.layer_bytes = layers > 1 ? layer : 0;
    in.pool = OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(layers * layer)}, kGpu);
    fill_pool(in.pool, shape.weights);
    in.x = random_bf16({problem.max_tokens, shape.hidden}, 1);
    in.weights = random_bf16({problem.max_tokens, shape.top_k}, 2);
    if (shape.biases) {
        in.gate_up_bias = random_bf16({shape.experts, 2 * shape.intermediate}, 3);
        in.down_bias = random_bf16({shape.experts, shape.hidden}, 4);
    }
    in.out = OwnedTensor::allocate(DType::bf16, {problem.max_tokens, shape.hidden}, kGpu);
    return in;
}

moe::FusedMoeArgs layer_args(const Shape& shape, const moe::FusedMoeProblem& problem, const Inputs& in, int layer,
                             const OwnedTensor& ids) {
    const std::size_t pool_layers = in.layer_bytes == 0 ? 1 : in.pool.view().bytes() / in.layer_bytes;
    const std::uint8_t* const base =
        in.pool.as<std::uint8_t>() + static_cast<std::size_t>(layer) % pool_layers * in.layer_bytes;
    const auto gate_up = static_cast<std::int64_t>(moe::gate_up_layout(problem).matrix_bytes);
    const auto down = static_cast<std::int64_t>(moe::down_layout(problem).matrix_bytes);
    const std::int64_t tokens = ids.view().size(0);
    moe::FusedMoeArgs args;
    args.tokens = tokens;
    args.x = in.x.view().first_rows(tokens);
    args.ids = ids;
    args.weights = in.weights.view().first_rows(tokens);
    args.gate_up = Tensor(base, DType::u8, {shape.experts, gate_up}, kGpu);
    args.down = Tensor(base + shape.experts * gate_up, DType::u8, {shape.experts, down}, kGpu);
    args.gate_up_bias = in.gate_up_bias;
    args.down_bias = in.down_bias;
    args.out = in.out;
    return args;
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
void measure_logits(const Shape& shape, const moe::FusedMoeProblem& plain, const Inputs& in,
                    const std::vector<OwnedTensor>& ids, std::mt19937& random) {
    const cuda::OwnedStream stream;
    std::vector<OwnedTensor> logits;
    for (const OwnedTensor& layer : ids) logits.push_back(logits_for(shape, layer, random));
    const std::int64_t tokens = ids.front().view().size(0);
    const moe::RouteRule grouped{.method = moe::RouteMethod::sigmoid_grouped, .num_groups = 8, .top_groups = 8};
    const std::pair<const char*, std::optional<moe::RouteRule>> rules[] = {
        {"from ids", std::nullopt}, {"softmax", moe::RouteRule{}}, {"sigmoid in 8 groups", grouped}};
    std::vector<moe::FusedMoePlan> plans;
    std::vector<OwnedWorkspace> workspaces;
    std::vector<std::unique_ptr<cuda::CapturedGraph>> graphs;
    for (const auto& [name, rule] : rules) {
        moe::FusedMoeProblem problem = plain;
        problem.route = rule;
        plans.push_back(make_plan(problem, kGpu));
        workspaces.emplace_back(plans.back().workspace(), kGpu);
        graphs.push_back(std::make_unique<cuda::CapturedGraph>(stream, [&] {
            for (int layer = 0; layer < kLayers; ++layer) {
                moe::FusedMoeArgs args = layer_args(shape, problem, in, layer, ids[static_cast<std::size_t>(layer)]);
                if (problem.route) {
                    args.ids = args.weights = Tensor();
                    args.logits = logits[static_cast<std::size_t>(layer)];
                }
                run(plans.back(), args, workspaces.back(), stream.stream());
            }
        }));
    }
    const std::vector<double> us = time_in_turn(stream, graphs);
    for (std::size_t g = 0; g < graphs.size(); ++g)
        fmt::print("{:14} {:13} M={:<3} {:22}  {:7.2f} us  {:+6.2f}  {}\n", shape.name, format_name(shape), tokens,
                   plans[g].row_for(tokens).variant, us[g] / kLayers, (us[g] - us[0]) / kLayers, rules[g].first);
}

/// One graph of kLayers layers, for each variant; the default first.
void measure(const Shape& shape, const moe::FusedMoeProblem& problem, const Inputs& in, double read_gbps,
             std::int64_t tokens, nlohmann::json& rows) {
    const cuda::OwnedStream stream;
    std::mt19937 random(static_cast<unsigned>(tokens));
    std::size_t active = 0;
    std::vector<OwnedTensor> ids;
    for (int layer = 0; layer < kLayers; ++layer) ids.push_back(random_ids(shape, tokens, random, active));
    const auto expert_bytes = moe::gate_up_layout(problem).matrix_bytes + moe::down_layout(problem).matrix_bytes;
    const double bytes = static_cast<double>(active * expert_bytes) / kLayers;
    const double floor_us = bytes / read_gbps * 1e-3;
    const moe::FusedMoePlan automatic = make_plan(problem, kGpu);
    const std::string& chosen = automatic.row_for(tokens).variant;
    for (const std::string& variant : automatic.state().variants) {
        const bool slow = tokens > 8 && variant.rfind("decode", 0) == 0;
        if ((slow || std::getenv("BENCH_DEFAULTS") != nullptr) && variant != chosen) continue;
        PlanOptions options;
        options.variant = variant;
        const moe::FusedMoePlan plan = make_plan(problem, kGpu, options);
        const OwnedWorkspace workspace(plan.workspace(), kGpu);
        const cuda::CapturedGraph graph(stream, [&] {
            for (int layer = 0; layer < kLayers; ++layer)
                run(plan, layer_args(shape, problem, in, layer, ids[static_cast<std::size_t>(layer)]), workspace,
                    stream.stream());
        });
        const cuda::Quantiles us = cuda::time_graph(stream, graph, 3, 25);
        rows.push_back({{"op", "fused_moe"},
                        {"shape", shape.name},
                        {"format", format_name(shape)},
                        {"tokens", tokens},
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
        fmt::print("{:14} {:13} M={:<3} {:22}{} {:7.1f} us  floor {:6.1f}  share {:5.1f}%\n", shape.name,
                   format_name(shape), tokens, variant, variant == chosen ? '*' : ' ', us.median / kLayers, floor_us,
                   100.0 * floor_us * kLayers / us.median);
    }
    measure_logits(shape, problem, in, ids, random);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        fmt::print(stderr, "usage: moe_decode_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]\n");
        return 2;
    }
    try {
        nlohmann::json result = {{"tokamak", build_info::version()},
                                 {"commit", build_info::commit()},
                                 {"device", device_info(kGpu).name},
                                 {"rows", nlohmann::json::array()}};
        std::vector<std::int64_t> token_counts = {1, 2, 4, 8, 16, 32, 64};
        if (argc > 4) token_counts.clear();
        for (int i = 4; i < argc; ++i) token_counts.push_back(std::stoll(argv[i]));
        for (const Shape& shape : shapes()) {
            const auto wanted = [&](int arg, const std::string& name) {
                return argc <= arg || argv[arg] == std::string("all") || argv[arg] == name;
            };
            if (!wanted(2, shape.name) || !wanted(3, format_name(shape))) continue;
            const moe::FusedMoeProblem problem{
                .max_tokens = std::max<std::int64_t>(64, *std::max_element(token_counts.begin(), token_counts.end())),
                .hidden = shape.hidden,
                .intermediate = shape.intermediate,
                .num_experts = shape.experts,
                .top_k = shape.top_k,
                .weights = shape.weights,
                .activation = shape.activation,
                .quantize_activations = shape.quantized};
            const Inputs in = make_inputs(shape, problem);
            const cuda::OwnedStream stream;
            const std::size_t read_bytes = std::min<std::size_t>(in.pool.view().bytes(), 2'000'000'000) / 4096 * 4096;
            std::vector<float> reads;
            for (int i = 0; i < 7; ++i)
                reads.push_back(ceilings::time_read(in.pool.as<std::uint8_t>(), read_bytes, stream));
            const double gbps = static_cast<double>(read_bytes) / cuda::quantiles(reads).median * 1e-3;
            result["ceilings"] = {{"read_gbps", gbps}, {"source", "time_read"}};
            for (const std::int64_t tokens : token_counts) measure(shape, problem, in, gbps, tokens, result["rows"]);
        }
        std::ofstream(argv[1]) << result.dump(1) << "\n";
    } catch (const std::exception& error) {
        fmt::print(stderr, "moe_decode_bench: {}\n", error.what());
        return 1;
    }
    return 0;
}
