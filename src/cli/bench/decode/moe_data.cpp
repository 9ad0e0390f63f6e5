// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/moe_data.h"

#include <algorithm>
#include <random>

#include "cli/bench/decode/sampled.h"
#include "cli/bench/random_tensor.h"
#include "core/choose.h"
#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::size_t kMostLayers = kMoeSets;

OwnedTensor device_normal(const Lane& lane, std::initializer_list<std::int64_t> shape, std::uint32_t seed) {
    OwnedTensor tensor = OwnedTensor::allocate(DType::bf16, shape, lane.device);
    fill_normal(lane, tensor.view().data, static_cast<std::size_t>(tensor.view().elements()), seed);
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

/// What a token without a local expert gives.
OwnedTensor zeros(std::int64_t hidden) {
    OwnedTensor tensor = OwnedTensor::allocate(DType::f64, {1, hidden});
    std::fill_n(tensor.as<double>(), hidden, 0.0);
    return tensor;
}

}  // namespace

Distance moe_limit(const MoeCase& layer) {
    if (!layer.problem.quantize_activations) return {5e-3, 1e-2};
    // 4-bit weights: e4m3 rows may be rounded to bf16 with their scales, which makes some codes of the intermediate
    // their neighbours: 1.0 to 1.25% of a layer's norm by simulation, up to 1.75% of a token's as recorded.
    if (layer.problem.weights.format != WeightFormat::fp8_block) return {2e-2, 3e-2};
    return {1.5e-2, 3e-2};
}

WeightPool::WeightPool(Device device, std::int64_t bytes)
    : memory_(OwnedTensor::allocate(DType::u8, {bytes}, device)) {}

LocalExperts local_experts(const Tensor& ids, std::int64_t token, int experts, int local_experts) {
    LocalExperts local{rows_to_host(ids, {token}), OwnedTensor::allocate(DType::i32, {experts}), {}};
    std::fill_n(local.map.as<std::int32_t>(), experts, -1);
    for (std::int64_t j = 0; j < ids.size(1); ++j) {
        const std::int32_t expert = local.ids.as<std::int32_t>()[j];
        if (expert >= local_experts) continue;
        local.map.as<std::int32_t>()[expert] = static_cast<std::int32_t>(local.experts.size());
        local.experts.push_back(expert);
    }
    return local;
}

MoeData::MoeData(const Lane& lane, const WeightPool& pool, const MoeCase& layer)
    : lane_(lane),
      layer_(layer),
      local_(layer.problem.num_local_experts > 0 ? layer.problem.num_local_experts : layer.problem.num_experts),
      weights_(pool.data()) {
    const moe::FusedMoeProblem& p = layer.problem;
    const PackedLayout gate_up = moe::gate_up_layout(p);
    const PackedLayout down = moe::down_layout(p);
    const auto experts = static_cast<std::size_t>(local_);
    expert_bytes_ = static_cast<double>(gate_up.matrix_bytes + down.matrix_bytes);
    layer_bytes_ = experts * (gate_up.matrix_bytes + down.matrix_bytes);
    layers_ = std::min(pool.bytes() / layer_bytes_, kMostLayers);
    if (layers_ == 0)
        invalid("bench: a layer of {} needs {} bytes, the pool has {}", layer.shape->name, layer_bytes_, pool.bytes());
    for (std::size_t l = 0; l < layers_; ++l) {
        std::uint8_t* const at = weights_ + l * layer_bytes_;
        const auto seed = static_cast<std::uint32_t>(2 * l + 1);
        fill_packed(lane, at, experts * gate_up.matrix_bytes, gate_up, seed);
        fill_packed(lane, at + experts * gate_up.matrix_bytes, experts * down.matrix_bytes, down, seed + 1);
    }
    if (layer.shape->biases) {
        gate_up_bias_ = device_normal(lane, {local_, 2 * p.intermediate}, 102);
        down_bias_ = device_normal(lane, {local_, p.hidden}, 103);
    }
    synchronize(lane.device, lane.stream);
}

void MoeData::reserve(std::int64_t tokens) {
    if (tokens <= max_tokens_) return;
    const moe::FusedMoeProblem& p = layer_.problem;
    max_tokens_ = 0;  // if memory runs out
    ids_.clear();
    x_ = {};
    out_ = {};
    x_ = device_normal(lane_, {tokens, p.hidden}, 101);
    routing_weights_ = routing_weights(tokens, p.top_k, lane_.device);
    out_ = OwnedTensor::allocate(p.out_dtype, {tokens, p.hidden}, lane_.device);
    synchronize(lane_.device, lane_.stream);
    max_tokens_ = tokens;
}

MoeData::Ids& MoeData::ids(Routing routing, int set) {
    Ids& ids = ids_[{routing, set}];
    if (!ids.host.empty()) return ids;
    const moe::FusedMoeProblem& p = layer_.problem;
    const std::int64_t tokens = set < kLongSets ? max_tokens_ : std::min(max_tokens_, kSetTokens);
    ids.host =
        random_routes(routing, tokens, p.num_experts, p.top_k, static_cast<std::uint64_t>(set) * 7919 + 13, local_);
    ids.device = OwnedTensor::copy_of(Tensor(ids.host.data(), DType::i32, {tokens, p.top_k}), lane_.device);
    return ids;
}

std::span<const std::int32_t> MoeData::host_ids(Routing routing, int set, std::int64_t tokens) {
    return std::span(ids(routing, set).host).first(static_cast<std::size_t>(tokens * layer_.problem.top_k));
}

moe::FusedMoeArgs MoeData::args(Routing routing, std::int64_t tokens, int set) {
    const moe::FusedMoeProblem& p = layer_.problem;
    const auto gate_up = static_cast<std::int64_t>(moe::gate_up_layout(p).matrix_bytes);
    const auto down = static_cast<std::int64_t>(moe::down_layout(p).matrix_bytes);
    const std::uint8_t* const base = weights_ + static_cast<std::size_t>(set) % layers_ * layer_bytes_;
    moe::FusedMoeArgs args;
    args.tokens = tokens;
    args.x = x_.view().first_rows(tokens);
    args.ids = ids(routing, set).device.view().first_rows(tokens);
    args.weights = routing_weights_.view().first_rows(tokens);
    args.gate_up = Tensor(base, DType::u8, {local_, gate_up}, lane_.device);
    args.down = Tensor(base + local_ * gate_up, DType::u8, {local_, down}, lane_.device);
    args.gate_up_bias = gate_up_bias_.view();
    args.down_bias = down_bias_.view();
    return args;
}

double MoeData::active(Routing routing, std::int64_t device_tokens, int sets) {
    double sum = 0;
    for (int set = 0; set < sets; ++set)
        sum += static_cast<double>(count_active(host_ids(routing, set, device_tokens), local_));
    return sum / sets;
}

double MoeData::local_routes(Routing routing, std::int64_t device_tokens, int sets) {
    double sum = 0;
    for (int set = 0; set < sets; ++set)
        sum += static_cast<double>(count_routes(host_ids(routing, set, device_tokens), local_));
    return sum / sets;
}

Tensor MoeData::count(std::int64_t tokens) {
    OwnedTensor& count = counts_[tokens];
    if (!count.view()) {
        const auto value = static_cast<std::int32_t>(tokens);
        count = OwnedTensor::copy_of(Tensor(&value, DType::i32, {1}), lane_.device);
    }
    return count.view();
}

OwnedTensor MoeData::compute_oracle(Routing routing, std::int64_t token) {
    const moe::FusedMoeProblem& p = layer_.problem;
    const moe::FusedMoeArgs on_device = args(routing, token + 1, 0);
    const LocalExperts local = local_experts(on_device.ids, token, p.num_experts, local_);
    if (local.experts.empty()) return zeros(p.hidden);
    moe::FusedMoeProblem problem = p;
    problem.max_tokens = 1;
    problem.num_local_experts = static_cast<int>(local.experts.size());
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
