// SPDX-License-Identifier: Apache-2.0
// Shapes of real models by name: the one list that examples, benchmarks and tuning share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/mla.h"
#include "tokamak/moe.h"

namespace tokamak::cli {

/// One MoE layer as one GPU sees it: a tensor-parallel slice has a smaller intermediate size, an expert-parallel one
/// fewer experts.
struct MoeShape {
    std::string name;
    int experts = 0;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    int top_k = 0;
    std::vector<WeightSpec> formats;  ///< the published one first
    moe::Activation activation;
    bool biases = false;
    moe::RouteProblem routing;              ///< method, groups, renormalisation and scaling; no sizes
    int local = 0;                          ///< experts of this rank, the first of all; 0: all
    std::vector<std::string> more_formats;  ///< names of what else matters for many tokens, as of parse_moe_format
};

/// What a layer computes with.
struct MoeFormat {
    WeightSpec weights;
    bool quantize_activations = false;
};

/// The name of a layer's format says more than the weights: "fp8_block" has e4m3 activations and "fp8_block_a16" has
/// not, "mxfp4_a8" and "int4_g32_a8" have them and "mxfp4" and "int4_g32" have not. Throws `parse` naming the known
/// ones.
MoeFormat parse_moe_format(std::string_view name);

/// One pool of a sparse MLA shape. The cache is larger than what one token selects.
struct MlaPoolShape {
    int top_k = 0;
    std::int64_t page_size = 0;
    std::int64_t rows = 0;
};

struct MlaShape {
    std::string name;
    int heads = 0;
    std::int64_t dim = 0;
    std::int64_t value_dim = 0;
    std::vector<MlaPoolShape> pools;
    std::vector<KvFormat> formats;  ///< the published one first
    bool sink = false;
};

/// What calls of few tokens are measured on.
std::span<const MoeShape> moe_shapes();
/// What calls of many tokens are measured on, in the formats that matter there: ranks of expert parallelism, and some
/// of the others.
std::span<const MoeShape> moe_prefill_shapes();
std::span<const MlaShape> mla_shapes();

/// Of both lists.
std::vector<std::string> moe_shape_names();

/// One of either list, with the formats of the first that has it. Throw `invalid_argument` naming the known shapes.
const MoeShape& moe_shape(std::string_view name);
const MlaShape& mla_shape(std::string_view name);

/// The problems of a shape for at most `max_tokens` tokens.
moe::FusedMoeProblem fused_moe_problem(const MoeShape& shape, const WeightSpec& weights, std::int64_t max_tokens);
moe::RouteProblem route_problem(const MoeShape& shape, std::int64_t max_tokens);
mla::SparseAttentionProblem sparse_attention_problem(const MlaShape& shape, KvFormat format, std::int64_t max_tokens);

/// Softmax scale of the shape's model: 1 / sqrt of the width of the unabsorbed query head.
float softmax_scale(const MlaShape& shape);

}  // namespace tokamak::cli
