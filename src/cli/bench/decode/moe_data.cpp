// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/moe_data.h"

#include <algorithm>
#include <random>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/random_tensor.h"
#include "core/choose.h"
#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kPoolBytes = std::int64_t{8} << 30;
constexpr std::size_t kMostLayers = kMoeSets;

OwnedTensor device_normal(const DecodeBench& bench, std::initializer_list<std::int64_t> shape, std::uint32_t seed) {
    OwnedTensor tensor = OwnedTensor::allocate(DType::bf16, shape, bench.device());
    fill_normal(tensor.view().data, static_cast<std::size_t>(tensor.view().elements()), seed, bench.stream().stream());
    return tensor;
}

/// Positive weights that sum to one in each token.
OwnedTensor routing_weights(std::int64_t tokens, int top_k, Device device) {
    std::mt19937 random(5);
    std::uniform_real_distribution<float> uniform(0.2F, 1.0F);
    const OwnedTensor host = OwnedTensor::allocate(DType::f32, {tokens, top_k});
    for (std::int64_t t = 0; t < tokens; ++t) {
        float* const row = host.as<float>() + t * top_k;
        float sum = 0;
        for (int j = 0; j < top_k; ++j) sum += row[j] = uniform(random);
        for (int j = 0; j < top_k; ++j) row[j] /= sum;
    }
    return OwnedTensor::copy_of(host, device);
}

}  // namespace

WeightPool::WeightPool(Device device) : memory_(OwnedTensor::allocate(DType::u8, {kPoolBytes}, device)) {}

LocalExperts local_experts(const Tensor& ids, std::int64_t token, int experts) {
    LocalExperts local{rows_to_host(ids, {token}), OwnedTensor::allocate(DType::i32, {experts}), {}};
    std::fill_n(local.map.as<std::int32_t>(), experts, -1);
    for (std::int64_t j = 0; j < ids.size(1); ++j) {
        const std::int32_t expert = local.ids.as<std::int32_t>()[j];
        local.map.as<std::int32_t>()[expert] = static_cast<std::int32_t>(j);
        local.experts.push_back(expert);
    }
    return local;
}

MoeData::MoeData(const DecodeBench& bench, const WeightPool& pool, const MoeCase& layer)
    : bench_(bench), layer_(layer), max_tokens_(layer.problem.max_tokens), weights_(pool.data()) {
    const moe::FusedMoeProblem& p = layer.problem;
    const PackedLayout gate_up = moe::gate_up_layout(p);
    const PackedLayout down = moe::down_layout(p);
    const auto experts = static_cast<std::size_t>(p.num_experts);
    const Device device = bench.device();
    const Stream stream = bench.stream().stream();
    expert_bytes_ = static_cast<double>(gate_up.matrix_bytes + down.matrix_bytes);
    layer_bytes_ = experts * (gate_up.matrix_bytes + down.matrix_bytes);
    layers_ = std::min(pool.bytes() / layer_bytes_, kMostLayers);
    if (layers_ == 0)
        invalid("bench: a layer of {} needs {} bytes, the pool has {}", layer.shape->name, layer_bytes_, pool.bytes());
    for (std::size_t l = 0; l < layers_; ++l) {
        std::uint8_t* const at = weights_ + l * layer_bytes_;
        const auto seed = static_cast<std::uint32_t>(2 * l + 1);
        fill_packed(at, experts * gate_up.matrix_bytes, gate_up, seed, stream);
        fill_packed(at + experts * gate_up.matrix_bytes, experts * down.matrix_bytes, down, seed + 1, stream);
    }
    x_ = device_normal(bench, {max_tokens_, p.hidden}, 101);
    routing_weights_ = routing_weights(max_tokens_, p.top_k, device);
    if (layer.shape->biases) {
        gate_up_bias_ = device_normal(bench, {p.num_experts, 2 * p.intermediate}, 102);
        down_bias_ = device_normal(bench, {p.num_experts, p.hidden}, 103);
    }
    out_ = OwnedTensor::allocate(p.out_dtype, {max_tokens_, p.hidden}, device);
    synchronize(device, stream);
}

MoeData::Ids& MoeData::ids(Routing routing) {
    Ids& ids = ids_[routing];
    if (!ids.host.empty()) return ids;
    const moe::FusedMoeProblem& p = layer_.problem;
    for (int set = 0; set < kMoeSets; ++set) {
        const auto routes =
            random_routes(routing, max_tokens_, p.num_experts, p.top_k, static_cast<std::uint64_t>(set) * 7919 + 13);
        ids.host.insert(ids.host.end(), routes.begin(), routes.end());
    }
    ids.device =
        OwnedTensor::copy_of(Tensor(ids.host.data(), DType::i32, {kMoeSets, max_tokens_, p.top_k}), bench_.device());
    return ids;
}

moe::FusedMoeArgs MoeData::args(Routing routing, std::int64_t tokens, int set) {
    const moe::FusedMoeProblem& p = layer_.problem;
    const auto gate_up = static_cast<std::int64_t>(moe::gate_up_layout(p).matrix_bytes);
    const auto down = static_cast<std::int64_t>(moe::down_layout(p).matrix_bytes);
    const std::uint8_t* const base = weights_ + static_cast<std::size_t>(set) % layers_ * layer_bytes_;
    moe::FusedMoeArgs args;
    args.tokens = tokens;
    args.x = x_.view().first_rows(tokens);
    args.ids = ids(routing).device.view().at(set).first_rows(tokens);
    args.weights = routing_weights_.view().first_rows(tokens);
    args.gate_up = Tensor(base, DType::u8, {p.num_experts, gate_up}, bench_.device());
    args.down = Tensor(base + p.num_experts * gate_up, DType::u8, {p.num_experts, down}, bench_.device());
    args.gate_up_bias = gate_up_bias_.view();
    args.down_bias = down_bias_.view();
    return args;
}

double MoeData::active(Routing routing, std::int64_t device_tokens, int sets) {
    const moe::FusedMoeProblem& p = layer_.problem;
    const auto& host = ids(routing).host;
    const auto stride = static_cast<std::size_t>(max_tokens_ * p.top_k);
    double sum = 0;
    for (int set = 0; set < sets; ++set)
        sum += static_cast<double>(count_active(
            {host.data() + static_cast<std::size_t>(set) * stride, static_cast<std::size_t>(device_tokens * p.top_k)},
            p.num_experts));
    return sum / sets;
}

Tensor MoeData::count(std::int64_t tokens) {
    OwnedTensor& count = counts_[tokens];
    if (!count.view()) {
        const auto value = static_cast<std::int32_t>(tokens);
        count = OwnedTensor::copy_of(Tensor(&value, DType::i32, {1}), bench_.device());
    }
    return count.view();
}

OwnedTensor MoeData::compute_oracle(Routing routing, std::int64_t token) {
    const moe::FusedMoeProblem& p = layer_.problem;
    const moe::FusedMoeArgs on_device = args(routing, max_tokens_, 0);
    const LocalExperts local = local_experts(on_device.ids, token, p.num_experts);
    moe::FusedMoeProblem problem = p;
    problem.max_tokens = 1;
    problem.num_local_experts = p.top_k;
    problem.out_dtype = DType::f64;
    const OwnedTensor inputs[] = {rows_to_host(on_device.x, {token}),
                                  rows_to_host(on_device.weights, {token}),
                                  rows_to_host(on_device.gate_up, local.experts),
                                  rows_to_host(on_device.down, local.experts),
                                  rows_to_host(on_device.gate_up_bias, local.experts),
                                  rows_to_host(on_device.down_bias, local.experts)};
    moe::FusedMoeArgs args;
    args.tokens = 1;
    args.x = inputs[0];
    args.ids = local.ids;
    args.weights = inputs[1];
    args.gate_up = inputs[2];
    args.down = inputs[3];
    args.gate_up_bias = inputs[4];
    args.down_bias = inputs[5];
    args.expert_map = local.map;
    return fused_moe(make_plan(problem, Device::cpu(), {.variant = kCpuF64}), args);
}

const OwnedTensor& MoeData::oracle(Routing routing, std::int64_t token) {
    OwnedTensor& oracle = oracles_[{routing, token}];
    if (!oracle.view()) oracle = compute_oracle(routing, token);
    return oracle;
}

Distance MoeData::check(const Tensor& out, Routing routing, std::int64_t device_tokens) {
    const auto tokens = sampled_tokens(device_tokens);
    const std::int64_t hidden = layer_.problem.hidden;
    const OwnedTensor reference = OwnedTensor::allocate(DType::f64, {static_cast<std::int64_t>(tokens.size()), hidden});
    for (std::size_t i = 0; i < tokens.size(); ++i)
        std::copy_n(oracle(routing, tokens[i]).as<double>(), hidden,
                    reference.as<double>() + static_cast<std::int64_t>(i) * hidden);
    return distance(rows_to_host(out, tokens), reference);
}

}  // namespace tokamak::cli::bench
