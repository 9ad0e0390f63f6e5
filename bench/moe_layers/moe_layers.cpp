// SPDX-License-Identifier: Apache-2.0
#include "moe_layers/moe_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>

#include "core/build_info.h"
#include "cuda/ceilings/read.h"
#include "cuda/graph.h"
#include "formats/packed_tile.h"
#include "formats/scalar.h"

namespace tokamak::moe_layers {
namespace {

constexpr std::size_t kPoolBytes = 6'000'000'000;
constexpr std::size_t kMostLayers = 8;

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

moe::FusedMoeProblem problem_of(const Shape& shape, std::int64_t max_tokens) {
    return {.max_tokens = max_tokens,
            .hidden = shape.hidden,
            .intermediate = shape.intermediate,
            .num_experts = shape.experts,
            .num_local_experts = shape.local,
            .top_k = shape.top_k,
            .weights = shape.weights,
            .activation = shape.activation,
            .quantize_activations = shape.quantized};
}

Inputs make_inputs(const Shape& shape, const moe::FusedMoeProblem& problem) {
    const std::size_t layer = expert_bytes(problem) * static_cast<std::size_t>(shape.local);
    const std::size_t layers = std::clamp<std::size_t>(kPoolBytes / layer, 1, kMostLayers);
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

double measured_read_gbps(const Inputs& in) {
    const cuda::OwnedStream stream;
    const std::size_t bytes = std::min<std::size_t>(in.pool.view().bytes(), 2'000'000'000) / 4096 * 4096;
    std::vector<float> reads;
    for (int i = 0; i < 7; ++i) reads.push_back(ceilings::time_read(in.pool.as<std::uint8_t>(), bytes, stream));
    return static_cast<double>(bytes) / cuda::quantiles(reads).median * 1e-3;
}

nlohmann::json results(const Program& program, int argc, char** argv) {
    nlohmann::json result = {{"tokamak", build_info::version()},
                             {"commit", build_info::commit()},
                             {"device", device_info(kGpu).name},
                             {"rows", nlohmann::json::array()}};
    std::vector<std::int64_t> tokens = program.tokens;
    if (argc > 4) tokens.clear();
    for (int i = 4; i < argc; ++i) tokens.push_back(std::stoll(argv[i]));
    const std::int64_t largest = *std::max_element(tokens.begin(), tokens.end());
    for (const Shape& shape : program.shapes) {
        const auto wanted = [&](int arg, const std::string& name) {
            return argc <= arg || argv[arg] == std::string("all") || argv[arg] == name;
        };
        if (!wanted(2, shape.name) || !wanted(3, format_name(shape))) continue;
        const moe::FusedMoeProblem problem = problem_of(shape, std::max(program.least_max_tokens, largest));
        const Inputs in = make_inputs(shape, problem);
        const double gbps = measured_read_gbps(in);
        result["ceilings"] = {{"read_gbps", gbps}, {"source", "time_read"}};
        for (const std::int64_t count : tokens) program.measure({shape, problem, in, gbps, count}, result["rows"]);
    }
    return result;
}

}  // namespace

std::string format_name(const Shape& shape) {
    const bool a16 = shape.weights.format == WeightFormat::fp8_block && !shape.quantized;
    return to_string(shape.weights) + (a16 ? "_a16" : "");
}

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

std::size_t expert_bytes(const moe::FusedMoeProblem& problem) {
    return moe::gate_up_layout(problem).matrix_bytes + moe::down_layout(problem).matrix_bytes;
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

nlohmann::json timed_row(const Job& job, const std::string& variant, bool is_default, const cuda::Quantiles& us,
                         int layers) {
    return {{"op", "fused_moe"},         {"shape", job.shape.name},  {"format", format_name(job.shape)},
            {"tokens", job.tokens},      {"routing", "uniform"},     {"mode", "graph"},
            {"variant", variant},        {"default", is_default},    {"us_median", us.median / layers},
            {"us_p10", us.p10 / layers}, {"us_p90", us.p90 / layers}};
}

int run_program(const Program& program, int argc, char** argv) {
    if (argc < 2) {
        fmt::print(stderr, "usage: {} OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]\n", program.name);
        return 2;
    }
    try {
        std::ofstream(argv[1]) << results(program, argc, argv).dump(1) << "\n";
    } catch (const std::exception& error) {
        fmt::print(stderr, "{}: {}\n", program.name, error.what());
        return 1;
    }
    return 0;
}

}  // namespace tokamak::moe_layers
