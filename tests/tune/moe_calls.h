// SPDX-License-Identifier: Apache-2.0
// A small MoE layer with data on a device, as the tuner calls it.
#pragma once

#include <random>
#include <vector>

#include "tokamak/moe.h"
#include "tokamak/tune.h"

namespace tokamak::test {

struct MoeCalls {
    MoeCalls(std::int64_t max_tokens, Device on) : device(on) {
        problem = {.max_tokens = max_tokens,
                   .hidden = 256,
                   .intermediate = 128,
                   .num_experts = 8,
                   .top_k = 2,
                   .weights = WeightSpec::bf16()};
        fill();
        calls.args = [this](std::int64_t tokens, int set) { return args(tokens, set); };
        calls.calls = [](std::int64_t) { return 2; };
    }

    void fill() {
        const std::int64_t tokens = problem.max_tokens;
        const auto bytes = [](const PackedLayout& layout) { return static_cast<std::int64_t>(layout.matrix_bytes); };
        x = random_bf16({tokens, problem.hidden});
        gate_up = random_bf16({problem.num_experts, bytes(gate_up_layout(problem)) / 2});
        down = random_bf16({problem.num_experts, bytes(down_layout(problem)) / 2});
        other_down_memory = random_bf16({problem.num_experts, bytes(down_layout(problem)) / 2});
        other_down = as_bytes(other_down_memory);
        ids = OwnedTensor::allocate(DType::i32, {2, tokens, problem.top_k});
        for (std::int64_t i = 0; i < ids.view().elements(); ++i)
            ids.as<std::int32_t>()[i] = static_cast<std::int32_t>((i * 5 + i / 3) % problem.num_experts);
        ids = OwnedTensor::copy_of(ids, device);
        weights = OwnedTensor::allocate(DType::f32, {tokens, problem.top_k});
        for (std::int64_t i = 0; i < weights.view().elements(); ++i) weights.as<float>()[i] = 0.5F;
        weights = OwnedTensor::copy_of(weights, device);
        out = OwnedTensor::allocate(DType::bf16, {tokens, problem.hidden}, device);
    }

    [[nodiscard]] moe::FusedMoeArgs args(std::int64_t tokens, int set) const {
        moe::FusedMoeArgs args;
        args.tokens = tokens;
        args.x = x.view().first_rows(tokens);
        args.ids = ids.view().at(set).first_rows(tokens);
        args.weights = weights.view().first_rows(tokens);
        args.gate_up = as_bytes(gate_up).view();
        args.down = as_bytes(down).view();
        args.out = out;
        return args;
    }

    static OwnedTensor as_bytes(const OwnedTensor& tensor) {
        const Tensor& view = tensor;
        return OwnedTensor::borrow(Tensor(view.data, DType::u8, {view.size(0), 2 * view.size(1)}, view.device));
    }

    /// Between 2^-4 and 2^-3, either sign.
    [[nodiscard]] OwnedTensor random_bf16(std::initializer_list<std::int64_t> shape) {
        OwnedTensor host = OwnedTensor::allocate(DType::bf16, shape);
        for (std::int64_t i = 0; i < host.view().elements(); ++i)
            host.as<std::uint16_t>()[i] = static_cast<std::uint16_t>((random() & 0x807FU) | 0x3D80U);
        return OwnedTensor::copy_of(host, device);
    }

    Device device;
    moe::FusedMoeProblem problem;
    tune::Calls<moe::FusedMoeArgs> calls;
    std::mt19937 random{7};
    OwnedTensor x, gate_up, down, other_down_memory, other_down, ids, weights, out;
};

}  // namespace tokamak::test
