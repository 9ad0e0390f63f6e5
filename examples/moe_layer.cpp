// SPDX-License-Identifier: Apache-2.0
// Runs one MoE layer of a checkpoint for a few random tokens: moe_layer FILE.safetensors [LAYER [cpu or cuda]]
#include <tokamak/checkpoint.h>
#include <tokamak/moe.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>
#include <vector>

namespace {

using namespace tokamak;

// [readme]
/// Once, before serving: pack the experts, bring them to the device, size all memory. Then, for each step: run, also
/// inside a graph capture. `x`, `ids`, `weights` and `out` are on the device, which may be the CPU.
void serve(const PackedExperts& experts, const Tensor& x, const Tensor& ids, const Tensor& weights, const Tensor& out,
           Stream stream = {}) {
    const OwnedTensor gate_up = OwnedTensor::copy_of(experts.gate_up, x.device);
    const OwnedTensor down = OwnedTensor::copy_of(experts.down, x.device);
    const moe::FusedMoeProblem problem{.max_tokens = 64,
                                       .hidden = experts.hidden,
                                       .intermediate = experts.intermediate,
                                       .num_experts = static_cast<int>(experts.num_experts),
                                       .top_k = static_cast<int>(ids.size(1)),
                                       .weights = experts.spec};
    const moe::FusedMoePlan plan = moe::make_plan(problem, x.device);
    const OwnedWorkspace workspace(plan.workspace(), plan.device());
    moe::run(
        plan,
        {.tokens = x.size(0), .x = x, .ids = ids, .weights = weights, .gate_up = gate_up, .down = down, .out = out},
        workspace, stream);
    synchronize(plan.device(), stream);
}
// [readme]

int run_layer(const char* path, int layer, Device device) {
    const PackedExperts experts = load_experts(SafetensorsFile::open(path), layer);
    constexpr std::int64_t tokens = 3;
    constexpr std::int64_t top_k = 2;

    std::mt19937 random(1);
    std::vector<std::uint16_t> x(static_cast<std::size_t>(tokens * experts.hidden));
    for (std::uint16_t& value : x)
        value = static_cast<std::uint16_t>(0x3F00U | (random() & 0x80FFU));  // bf16, +-0.5..2
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < tokens * top_k; ++i) ids.push_back(static_cast<std::int32_t>(i % experts.num_experts));
    const std::vector<float> weights(tokens * top_k, 0.5F);
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {tokens, experts.hidden}, device);

    const auto there = [&](const Tensor& tensor) { return OwnedTensor::copy_of(tensor, device); };
    serve(experts, there(Tensor(x.data(), DType::bf16, {tokens, experts.hidden})),
          there(Tensor(ids.data(), DType::i32, {tokens, top_k})),
          there(Tensor(weights.data(), DType::f32, {tokens, top_k})), out);
    std::printf("%s layer %d on %s: %lld experts, hidden %lld, out[0, 0] has the bits %04x\n",
                to_string(experts.source), layer, to_string(device).c_str(),
                static_cast<long long>(experts.num_experts), static_cast<long long>(experts.hidden),
                OwnedTensor::copy_of(out).as<std::uint16_t>()[0]);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: moe_layer FILE.safetensors [LAYER [cpu or cuda]]\n");
        return 2;
    }
    try {
        const bool on_gpu = argc > 3 && std::strcmp(argv[3], "cuda") == 0;
        return run_layer(argv[1], argc > 2 ? std::atoi(argv[2]) : 0, on_gpu ? Device::cuda() : Device::cpu());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "moe_layer: %s\n", error.what());
        return 1;
    }
}
