// SPDX-License-Identifier: Apache-2.0
// What the developers' MoE benchmarks share: layers of random weights that do not fit the L2, ids with uniform routing,
// the read ceiling of the same process, and the loop over shapes and token counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "cuda/graph.h"
#include "tokamak/moe.h"

namespace tokamak::moe_layers {

inline const Device kGpu = Device::cuda();

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
std::string format_name(const Shape& shape);

struct Inputs {
    OwnedTensor pool;
    std::size_t layer_bytes = 0;  ///< from one layer's weights to the next; 0: there is one layer
    OwnedTensor x, weights, gate_up_bias, down_bias, out;
};

/// What the ids of a graph's layers lead to, all layers together.
struct Load {
    std::size_t experts = 0;  ///< local ones that are touched
    std::int64_t routes = 0;  ///< to local experts
};

/// Ids of one layer, without repetition in a token.
OwnedTensor random_ids(const Shape& shape, std::int64_t tokens, std::mt19937& random, Load& load);
/// A call on the weights of layer `layer`, counted round.
moe::FusedMoeArgs layer_args(const Shape& shape, const moe::FusedMoeProblem& problem, const Inputs& in, int layer,
                             const OwnedTensor& ids);
/// Packed bytes of an expert.
std::size_t expert_bytes(const moe::FusedMoeProblem& problem);

/// One shape with its data, at one token count.
struct Job {
    const Shape& shape;
    const moe::FusedMoeProblem& problem;
    const Inputs& in;
    double read_gbps;  ///< ceiling
    std::int64_t tokens;
};
/// A variant's row of the output: times are of one of `layers` layers, from those of a graph of them.
nlohmann::json timed_row(const Job& job, const std::string& variant, bool is_default, const cuda::Quantiles& us,
                         int layers);
using Measure = std::function<void(const Job& job, nlohmann::json& rows)>;

struct Program {
    const char* name;
    std::vector<Shape> shapes;
    std::vector<std::int64_t> tokens;  ///< where the command line names none
    std::int64_t least_max_tokens = 1;
    Measure measure;
};

/// NAME OUT.json [SHAPE or all [FORMAT or all [TOKENS...]]]. Exit status of main.
int run_program(const Program& program, int argc, char** argv);

}  // namespace tokamak::moe_layers
