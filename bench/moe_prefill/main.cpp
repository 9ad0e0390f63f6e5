// SPDX-License-Identifier: Apache-2.0
// moe_prefill_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]: fused_moe for many tokens on layers that do
// not fit the L2, from a captured graph. Every layer of the graph has its own ids and, as far as memory allows, its own
// weights. The floor is the larger of reading the active experts once at the read ceiling of the same process and of
// the arithmetic at 680 TFLOP/s (e4m3: 1250), the sustained rates of docs and issues.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
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

constexpr std::size_t kPoolBytes = 6'000'000'000;
const Device kGpu = Device::cuda();

struct Shape {
    const char* name;
    int experts;
    int local;  ///< of them, the first ones
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
    std::vector<Shape> all;
    for (const WeightSpec& spec : {WeightSpec::int4(32), WeightSpec::nvfp4(), WeightSpec::bf16()}) {
        all.push_back({"dsv3-ep8", 256, 32, 7168, 2048, 8, spec, swiglu});
        all.push_back({"dsv3-ep16", 256, 16, 7168, 2048, 8, spec, swiglu});
    }
    all.push_back({"gpt-oss-120b", 128, 128, 2880, 2880, 4, WeightSpec::mxfp4(), moe::Activation::gpt_oss(), true});
    all.push_back({"qwen3-30b-a3b", 128, 128, 2048, 768, 8, WeightSpec::bf16(), swiglu});
    all.push_back({"kimi-k2-e48", 48, 48, 7168, 2048, 8, WeightSpec::int4(32), swiglu});
    all.push_back({"dsv3-e32", 32, 32, 7168, 2048, 8, WeightSpec::nvfp4(), swiglu});
    all.push_back({"dsv3-ep8", 256, 32, 7168, 2048, 8, WeightSpec::fp8_block(), swiglu, false, true});
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

/// What the ids of a graph's layers lead to, all layers together.
struct Load {
    std::size_t experts = 0;  ///< local ones that are touched
    std::int64_t routes = 0;  ///< to local experts
};

/// Uniform routing without repetition, ids of one layer.
OwnedTensor random_ids(const Shape& shape, std::int64_t tokens, std::mt19937& random, Load& load) {
    OwnedTensor host = OwnedTensor::allocate(DType::i32, {tokens, shape.top_k});
    std::vector<int> order(static_cast<std::size_t>(shape.experts));
    std::iota(order.begin(), order.end(), 0);
    std::vector<bool> touched(static_cast<std::size_t>(shape.local));
    for (std::int64_t route = 0; route < tokens * shape.top_k; ++route) {
        const auto slot = static_cast<std::size_t>(route % shape.top_k);  // the next of a shuffle
        std::swap(order[slot], order[slot + random() % (order.size() - slot)]);
        host.as<std::int32_t>()[route] = order[slot];
        if (order[slot] >= shape.local) continue;
        touched[static_cast<std::size_t>(order[slot])] = true;
        ++load.routes;
    }
    load.experts += static_cast<std::size_t>(std::count(touched.begin(), touched.end(), true));
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
    const std::size_t layer = (gate_up.matrix_bytes + down.matrix_bytes) * static_cast<std::size_t>(shape.local);
    const std::size_t layers = std::clamp<std::size_t>(kPoolBytes / layer, 1, 8);
    Inputs in;
    in.layer_bytes = layers > 1 ? layer : 0;
    in.pool = OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(layers * layer)}, kGpu);
    fill_pool(in.pool, shape.weights);
    in.x = random_bf16({problem.max_tokens, shape.hidden}, 1);
    in.weights = random_bf16({problem.max_tokens, shape.top_k}, 2);
    if (shape.biases) {
        in.gate_up_bias = random_bf16({shape.local, 2 * shape.intermediate}, 3);
        in.down_bias = random_bf16({shape.local, shape.hidden}, 4);
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
    args.gate_up = Tensor(base, DType::u8, {shape.local, gate_up}, kGpu);
    args.down = Tensor(base + shape.local * gate_up, DType::u8, {shape.local, down}, kGpu);
    args.gate_up_bias = in.gate_up_bias;
    args.down_bias = in.down_bias;
    args.out = in.out;
    return args;
}

/// Sustained, in TFLOP/s.
double matrix_rate(const Shape& shape) { return shape.quantized ? 1250.0 : 680.0; }

/// One graph of several layers, for each variant; the default has a star.
void measure(const Shape& shape, const moe::FusedMoeProblem& problem, const Inputs& in, double read_gbps,
             std::int64_t tokens, nlohmann::json& rows) {
    const cuda::OwnedStream stream;
    const int layers = tokens <= 1024 ? 8 : tokens <= 4096 ? 4 : 1;
    const int samples = tokens <= 1024 ? 15 : 7;
    std::mt19937 random(static_cast<unsigned>(tokens));
    Load load;
    std::vector<OwnedTensor> ids;
    for (int layer = 0; layer < layers; ++layer) ids.push_back(random_ids(shape, tokens, random, load));
    const auto expert_bytes = moe::gate_up_layout(problem).matrix_bytes + moe::down_layout(problem).matrix_bytes;
    const double bytes = static_cast<double>(load.experts * expert_bytes) / layers;
    const double flops =
        6.0 * static_cast<double>(load.routes) / layers * static_cast<double>(shape.hidden * shape.intermediate);
    const double floor_us = std::max(bytes / read_gbps * 1e-3, flops / matrix_rate(shape) * 1e-6);
    const moe::FusedMoePlan automatic = make_plan(problem, kGpu);
    const std::string& chosen = automatic.row_for(tokens).variant;
    for (const std::string& variant : automatic.state().variants) {
        const bool wide = variant.rfind("wide", 0) == 0;
        const bool grouped = variant.rfind("grouped", 0) == 0 && tokens <= 1024;  // the others are for few tokens
        if (!wide && !grouped && variant != chosen) continue;
        PlanOptions options;
        options.variant = variant;
        const moe::FusedMoePlan plan = make_plan(problem, kGpu, options);
        const OwnedWorkspace workspace(plan.workspace(), kGpu);
        const cuda::CapturedGraph graph(stream, [&] {
            for (int layer = 0; layer < layers; ++layer)
                run(plan, layer_args(shape, problem, in, layer, ids[static_cast<std::size_t>(layer)]), workspace,
                    stream.stream());
        });
        const cuda::Quantiles us = cuda::time_graph(stream, graph, 2, samples);
        const double tflops = flops * layers / us.median * 1e-6;
        rows.push_back({{"op", "fused_moe"},
                        {"shape", shape.name},
                        {"format", format_name(shape)},
                        {"tokens", tokens},
                        {"routing", "uniform"},
                        {"mode", "graph"},
                        {"variant", variant},
                        {"default", variant == chosen},
                        {"us_median", us.median / layers},
                        {"us_p10", us.p10 / layers},
                        {"us_p90", us.p90 / layers},
                        {"bytes", bytes},
                        {"tflops", tflops},
                        {"floor_us", floor_us},
                        {"floor_share", floor_us * layers / us.median}});
        fmt::print("{:13} {:9} M={:<5} {:16}{} {:7.1f} us  floor {:6.1f}  share {:5.1f}%  {:5.0f} TFLOP/s\n",
                   shape.name, format_name(shape), tokens, variant, variant == chosen ? '*' : ' ', us.median / layers,
                   floor_us, 100.0 * floor_us * layers / us.median, tflops);
        std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        fmt::print(stderr, "usage: moe_prefill_bench OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]\n");
        return 2;
    }
    try {
        nlohmann::json result = {{"tokamak", build_info::version()},
                                 {"commit", build_info::commit()},
                                 {"device", device_info(kGpu).name},
                                 {"rows", nlohmann::json::array()}};
        std::vector<std::int64_t> token_counts = {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
        if (argc > 4) token_counts.clear();
        for (int i = 4; i < argc; ++i) token_counts.push_back(std::stoll(argv[i]));
        for (const Shape& shape : shapes()) {
            const auto wanted = [&](int arg, const std::string& name) {
                return argc <= arg || argv[arg] == std::string("all") || argv[arg] == name;
            };
            if (!wanted(2, shape.name) || !wanted(3, format_name(shape))) continue;
            const moe::FusedMoeProblem problem{
                .max_tokens = *std::max_element(token_counts.begin(), token_counts.end()),
                .hidden = shape.hidden,
                .intermediate = shape.intermediate,
                .num_experts = shape.experts,
                .num_local_experts = shape.local,
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
        fmt::print(stderr, "moe_prefill_bench: {}\n", error.what());
        return 1;
    }
    return 0;
}
