// SPDX-License-Identifier: Apache-2.0
// One mixture-of-experts layer on the CPU: experts packed once, plans and memory made once, then calls that only
// compute.
//   moe_layer                      experts with random weights
//   moe_layer FILE.safetensors 0   those of a layer of your checkpoint
#include <tokamak/checkpoint.h>
#include <tokamak/moe.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

void fill_bf16(const tokamak::Tensor& tensor, float scale) {
    static std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0F, scale);
    for (std::int64_t i = 0; i < tensor.elements(); ++i)
        tensor.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(normal(random)) >> 16);
}

float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Packs one random matrix for each expert into u8 [experts, layout.matrix_bytes].
tokamak::OwnedTensor random_matrices(const tokamak::PackedLayout& layout, std::int64_t experts,
                                     tokamak::RowOrder order) {
    const auto bytes = static_cast<std::int64_t>(layout.matrix_bytes);
    auto packed = tokamak::OwnedTensor::allocate(tokamak::DType::u8, {experts, bytes});
    const auto matrix = tokamak::OwnedTensor::allocate(tokamak::DType::bf16, {layout.rows, layout.cols});
    for (std::int64_t e = 0; e < experts; ++e) {
        fill_bf16(matrix, 1.0F / std::sqrt(static_cast<float>(layout.cols)));
        const tokamak::WeightMatrix source{layout.spec, layout.rows, layout.cols, matrix, {}};
        tokamak::pack(layout, source, order, {packed.view().at(e).as<std::byte>(), layout.matrix_bytes});
    }
    return packed;
}

tokamak::PackedExperts random_experts(std::int64_t count, std::int64_t hidden, std::int64_t intermediate) {
    tokamak::PackedExperts experts;
    experts.spec = tokamak::WeightSpec::bf16();
    experts.num_experts = count;
    experts.hidden = hidden;
    experts.intermediate = intermediate;
    experts.gate_up_layout = tokamak::PackedLayout::make(experts.spec, 2 * intermediate, hidden, true);
    experts.down_layout = tokamak::PackedLayout::make(experts.spec, hidden, intermediate, false);
    experts.gate_up = random_matrices(experts.gate_up_layout, count, tokamak::RowOrder::gate_up_concatenated);
    experts.down = random_matrices(experts.down_layout, count, tokamak::RowOrder::plain);
    return experts;
}

}  // namespace

int main(int argc, char** argv) try {
    using namespace tokamak;
    // The experts, in the layout that kernels read. `load_experts` knows the published checkpoints' formats.
    const PackedExperts experts =
        argc < 3 ? random_experts(8, 256, 128) : load_experts(SafetensorsFile::open(argv[1]), std::atoi(argv[2]));
    const int count = static_cast<int>(experts.num_experts);

    // The caller's tensors: token rows, router logits, and room for what is computed.
    const std::int64_t tokens = 5;
    const auto x = OwnedTensor::allocate(DType::bf16, {tokens, experts.hidden});
    const auto logits = OwnedTensor::allocate(DType::bf16, {tokens, count});
    const auto weights = OwnedTensor::allocate(DType::f32, {tokens, 4});
    const auto ids = OwnedTensor::allocate(DType::i32, {tokens, 4});
    const auto out = OwnedTensor::allocate(DType::bf16, {tokens, experts.hidden});
    fill_bf16(x, 1.0F);
    fill_bf16(logits, 1.0F);

    // [readme]
    // Before serving: what to compute for at most 64 tokens, a plan for each operator, one workspace for both.
    moe::RouteProblem routing{.max_tokens = 64, .num_experts = count, .top_k = 4, .logits_dtype = DType::bf16};
    moe::FusedMoeProblem layer{.max_tokens = 64, .hidden = experts.hidden, .intermediate = experts.intermediate};
    layer.num_experts = count;
    layer.top_k = 4;
    layer.weights = experts.spec;
    if (experts.source == CheckpointLayout::gpt_oss) layer.activation = moe::Activation::gpt_oss();
    const auto route_plan = moe::make_plan(routing, Device::cpu());
    const auto layer_plan = moe::make_plan(layer, Device::cpu());
    const OwnedWorkspace workspace(max_of(route_plan, layer_plan), Device::cpu());

    // Each step: any number of tokens up to 64. Nothing is allocated.
    const moe::RouteArgs choice{.tokens = tokens, .logits = logits, .weights = weights, .ids = ids};
    moe::FusedMoeArgs step{.tokens = tokens, .x = x, .ids = ids, .weights = weights, .out = out};
    step.gate_up = experts.gate_up;
    step.down = experts.down;
    step.gate_up_bias = experts.gate_up_bias;  // absent where the model has none
    step.down_bias = experts.down_bias;
    moe::run(route_plan, choice, workspace);
    moe::run(layer_plan, step, workspace);
    // [/readme]

    double squares = 0;
    for (std::int64_t i = 0; i < out.view().elements(); ++i)
        squares += std::pow(from_bf16(out.as<std::uint16_t>()[i]), 2);
    const double rms = std::sqrt(squares / static_cast<double>(out.view().elements()));
    std::printf("%d experts (%s), %d tokens: root mean square of the output %.3f\n", count,
                to_string(experts.spec).c_str(), static_cast<int>(tokens), rms);
    return std::isfinite(rms) && rms > 0 ? 0 : 1;
} catch (const tokamak::Error& error) {
    std::fprintf(stderr, "moe_layer: %s\n", error.what());
    return 2;
}
