// SPDX-License-Identifier: Apache-2.0
#include "cli/shapes.h"

#include <fmt/ranges.h>

#include <cmath>

#include "core/throw.h"

namespace tokamak::cli {
namespace {

moe::RouteProblem softmax_routing() { return {.method = moe::RouteMethod::softmax, .renormalize = true}; }

moe::RouteProblem grouped_routing(int groups, int top_groups, float scaling) {
    return {.method = moe::RouteMethod::sigmoid_grouped,
            .renormalize = true,
            .routed_scaling_factor = scaling,
            .num_groups = groups,
            .top_groups = top_groups};
}

std::vector<MoeShape> make_moe_shapes() {
    const auto swiglu = moe::Activation::swiglu();
    const auto gpt_oss = moe::Activation::gpt_oss();
    const auto clamped = moe::Activation::swiglu_clamped(10.0F);
    const auto softmax = softmax_routing();
    const auto deepseek = grouped_routing(8, 4, 2.5F);
    return {
        {"kimi-k2-e48", 48, 7168, 2048, 8, {WeightSpec::int4(32)}, swiglu, false, grouped_routing(1, 1, 2.827F)},
        {"gpt-oss-120b", 128, 2880, 2880, 4, {WeightSpec::mxfp4()}, gpt_oss, true, softmax},
        {"v4-flash-tp4", 256, 4096, 512, 6, {WeightSpec::mxfp4()}, clamped, false, grouped_routing(1, 1, 1.5F)},
        {"qwen3-30b-a3b", 128, 2048, 768, 8, {WeightSpec::int4(128), WeightSpec::bf16()}, swiglu, false, softmax},
        {"dsv3-tp8", 256, 7168, 256, 8, {WeightSpec::int4(32)}, swiglu, false, deepseek},
        {"qwen3.5-35b", 256, 2048, 512, 8, {WeightSpec::fp8_block()}, swiglu, false, softmax},
        {"dsv3-e32", 32, 7168, 2048, 8, {WeightSpec::fp8_block(), WeightSpec::nvfp4()}, swiglu, false, deepseek},
    };
}

std::vector<MoeShape> make_prefill_shapes() {
    const std::vector<WeightSpec> formats = {WeightSpec::int4(32), WeightSpec::nvfp4(), WeightSpec::bf16(),
                                             WeightSpec::fp8_block()};
    const auto deepseek = grouped_routing(8, 4, 2.5F);
    std::vector<MoeShape> shapes;
    for (const int ranks : {8, 16})
        shapes.push_back({"dsv3-ep" + std::to_string(ranks), 256, 7168, 2048, 8, formats, moe::Activation::swiglu(),
                          false, deepseek, 256 / ranks});
    shapes.front().more_formats = {"int4_g32_a8", "mxfp4_a8"};
    for (const MoeShape& shape : moe_shapes()) {
        if (shape.name != "gpt-oss-120b" && shape.name != "qwen3-30b-a3b") continue;
        shapes.push_back(shape);
        shapes.back().formats = {shape.name == "gpt-oss-120b" ? WeightSpec::mxfp4() : WeightSpec::bf16()};
        if (shape.name == "gpt-oss-120b") shapes.back().more_formats = {"mxfp4_a8"};
    }
    return shapes;
}

std::vector<MlaShape> make_mla_shapes() {
    const std::vector<KvFormat> v32 = {KvFormat::fp8_656, KvFormat::bf16};
    const std::vector<KvFormat> v4 = {KvFormat::fp8_584, KvFormat::fp8_split};
    const std::vector<MlaPoolShape> selected = {{2048, 64, 65536}};
    return {
        {"v32-h128", 128, 576, 512, selected, v32, false},
        {"v32-h64", 64, 576, 512, selected, v32, false},
        {"v32-h16", 16, 576, 512, selected, v32, false},
        {"v4-h128", 128, 512, 512, {{128, 256, 8192}, {1024, 64, 32768}}, v4, true},
        {"v4-h64", 64, 512, 512, {{128, 256, 8192}, {512, 64, 32768}}, v4, true},
    };
}

template <class Shape>
const Shape* find(std::span<const Shape> shapes, std::string_view name) {
    for (const Shape& shape : shapes)
        if (shape.name == name) return &shape;
    return nullptr;
}

[[noreturn]] void refuse_name(std::string_view kind, std::string_view name, const std::vector<std::string>& known) {
    invalid("unknown {} shape '{}', known: {}", kind, name, fmt::join(known, ", "));
}

}  // namespace

MoeFormat parse_moe_format(std::string_view name) {
    if (name == "fp8_block_a16") return {WeightSpec::fp8_block(), false};
    if (name == "mxfp4_a8") return {WeightSpec::mxfp4(), true};
    if (name == "int4_g32_a8") return {WeightSpec::int4(32), true};
    try {
        const WeightSpec weights = parse_weight_spec(name);
        return {weights, weights.format == WeightFormat::fp8_block};
    } catch (const Error& error) {
        fail(ErrorCode::parse, "{}; and as formats of a layer fp8_block_a16, mxfp4_a8, int4_g32_a8", error.what());
    }
}

std::span<const MoeShape> moe_shapes() {
    static const std::vector<MoeShape> shapes = make_moe_shapes();
    return shapes;
}

std::span<const MoeShape> moe_prefill_shapes() {
    static const std::vector<MoeShape> shapes = make_prefill_shapes();
    return shapes;
}

std::vector<std::string> moe_shape_names() {
    std::vector<std::string> names;
    for (const MoeShape& shape : moe_shapes()) names.push_back(shape.name);
    for (const MoeShape& shape : moe_prefill_shapes())
        if (find(moe_shapes(), shape.name) == nullptr) names.push_back(shape.name);
    return names;
}

std::span<const MlaShape> mla_shapes() {
    static const std::vector<MlaShape> shapes = make_mla_shapes();
    return shapes;
}

const MoeShape& moe_shape(std::string_view name) {
    if (const MoeShape* shape = find(moe_shapes(), name)) return *shape;
    if (const MoeShape* shape = find(moe_prefill_shapes(), name)) return *shape;
    refuse_name("MoE", name, moe_shape_names());
}

const MlaShape& mla_shape(std::string_view name) {
    if (const MlaShape* shape = find(mla_shapes(), name)) return *shape;
    std::vector<std::string> names;
    for (const MlaShape& shape : mla_shapes()) names.push_back(shape.name);
    refuse_name("MLA", name, names);
}

moe::FusedMoeProblem fused_moe_problem(const MoeShape& shape, const WeightSpec& weights, std::int64_t max_tokens) {
    moe::FusedMoeProblem problem;
    problem.max_tokens = max_tokens;
    problem.hidden = shape.hidden;
    problem.intermediate = shape.intermediate;
    problem.num_experts = shape.experts;
    problem.num_local_experts = shape.local;
    problem.top_k = shape.top_k;
    problem.weights = weights;
    problem.activation = shape.activation;
    return problem;
}

moe::RouteProblem route_problem(const MoeShape& shape, std::int64_t max_tokens) {
    moe::RouteProblem problem = shape.routing;
    problem.max_tokens = max_tokens;
    problem.num_experts = shape.experts;
    problem.top_k = shape.top_k;
    return problem;
}

mla::SparseAttentionProblem sparse_attention_problem(const MlaShape& shape, KvFormat format, std::int64_t max_tokens) {
    mla::SparseAttentionProblem problem;
    problem.max_tokens = max_tokens;
    problem.heads = shape.heads;
    problem.dim = shape.dim;
    problem.value_dim = shape.value_dim;
    for (const MlaPoolShape& pool : shape.pools)
        problem.pools.push_back({format, pool.rows, pool.page_size, pool.top_k, false, true});
    return problem;
}

float softmax_scale(const MlaShape& shape) {
    // V3.2 (576 = 512 latent + 64 rope) has 128 + 64 wide query heads before absorption; V4 attends in 512 directly.
    const double width = shape.dim == 576 ? 192.0 : static_cast<double>(shape.dim);
    return static_cast<float>(1.0 / std::sqrt(width));
}

}  // namespace tokamak::cli
