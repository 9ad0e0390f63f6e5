// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/number_check.h"
#include "cli/shapes.h"
#include "core/plan_state.h"
#include "core/throw.h"

namespace tokamak::cli {
namespace {

/// Numbers that stand for "not given".
constexpr std::int64_t kUnset = -1;

struct Options {
    std::string op;
    std::string shape;
    std::string format;
    std::string device = "cpu";
    std::string variant;
    std::int64_t max_tokens = 8192;
    std::int64_t tokens = kUnset;
    std::int64_t max_sms = 0;
    std::int64_t max_workspace_bytes = 0;
    std::map<std::string, std::int64_t> sizes;  ///< "--hidden" and so on, where given

    /// A size as given, or that of the shape; refused if there is neither.
    [[nodiscard]] std::int64_t size(const std::string& name, std::int64_t from_shape) const {
        const auto given = sizes.find(name);
        if (given != sizes.end() && given->second != kUnset) return given->second;
        if (from_shape == kUnset) invalid("explain {}: give --{}, or a --shape that has it", op, name);
        return from_shape;
    }
    [[nodiscard]] int int_size(const std::string& name, std::int64_t from_shape) const {
        const std::int64_t value = size(name, from_shape);
        if (value > std::numeric_limits<int>::max()) invalid("explain {}: --{} is {}, too large", op, name, value);
        return static_cast<int>(value);
    }
};

PlanOptions plan_options(const Options& options) {
    PlanOptions plan;
    plan.variant = options.variant;
    plan.max_sms = static_cast<int>(options.max_sms);
    plan.max_workspace_bytes = static_cast<std::size_t>(options.max_workspace_bytes);
    return plan;
}

template <class Problem>
Plan plan_of(const Problem& problem, const Options& options) {
    const Device device = usable_device(options.device);
    if (const Support support = supports(problem, device); !support)
        fail(ErrorCode::unsupported, "explain {}: {} cannot run this: {}", options.op, options.device, support.reason);
    return make_plan(problem, device, plan_options(options));
}

const MoeShape* shape_of_moe(const Options& options) {
    return options.shape.empty() ? nullptr : &moe_shape(options.shape);
}

/// As in `bench` and `tune`.
MoeFormat format_of(const Options& options, const MoeShape* shape) {
    if (!options.format.empty()) return parse_moe_format(options.format);
    if (shape == nullptr) invalid("explain {}: give --format, or a --shape", options.op);
    return parse_moe_format(to_string(shape->formats.front()));
}

Plan explain_fused_moe(const Options& options) {
    const MoeShape* shape = shape_of_moe(options);
    moe::FusedMoeProblem problem;
    const auto [weights, quantize_activations] = format_of(options, shape);
    if (shape != nullptr) problem = fused_moe_problem(*shape, weights, options.max_tokens);
    problem.max_tokens = options.max_tokens;
    problem.weights = weights;
    problem.quantize_activations = quantize_activations;
    problem.hidden = options.size("hidden", shape != nullptr ? shape->hidden : kUnset);
    problem.intermediate = options.size("intermediate", shape != nullptr ? shape->intermediate : kUnset);
    problem.num_experts = options.int_size("experts", shape != nullptr ? shape->experts : kUnset);
    problem.num_local_experts = options.int_size("local-experts", shape != nullptr ? shape->local : 0);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->top_k : kUnset);
    return plan_of(problem, options);
}

Plan explain_routed_gemm(const Options& options) {
    const MoeShape* shape = shape_of_moe(options);
    moe::RoutedGemmProblem problem;
    problem.max_tokens = options.max_tokens;
    const MoeFormat format = format_of(options, shape);
    if (format.quantize_activations && format.weights.format != WeightFormat::fp8_block)
        invalid("explain {}: --format is {}, but its activations are not quantised, expected {}", options.op,
                options.format, to_string(format.weights));
    problem.weights = format.weights;
    // With a shape: its down projection.
    problem.rows = options.size("rows", shape != nullptr ? shape->hidden : kUnset);
    problem.cols = options.size("cols", shape != nullptr ? shape->intermediate : kUnset);
    problem.num_experts = options.int_size("experts", shape != nullptr ? shape->experts : kUnset);
    problem.num_local_experts = options.int_size("local-experts", shape != nullptr ? shape->local : 0);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->top_k : kUnset);
    return plan_of(problem, options);
}

Plan explain_route(const Options& options) {
    const MoeShape* shape = shape_of_moe(options);
    moe::RouteProblem problem;
    if (shape != nullptr) problem = route_problem(*shape, options.max_tokens);
    problem.max_tokens = options.max_tokens;
    problem.num_experts = options.int_size("experts", shape != nullptr ? shape->experts : kUnset);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->top_k : kUnset);
    return plan_of(problem, options);
}

Plan explain_align(const Options& options) {
    const MoeShape* shape = shape_of_moe(options);
    moe::AlignProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.num_experts = options.int_size("experts", shape != nullptr ? shape->experts : kUnset);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->top_k : kUnset);
    problem.block_size = options.int_size("block-size", 16);
    return plan_of(problem, options);
}

Plan explain_sum_reduce(const Options& options) {
    const MoeShape* shape = shape_of_moe(options);
    moe::SumReduceProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.hidden = options.size("hidden", shape != nullptr ? shape->hidden : kUnset);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->top_k : kUnset);
    return plan_of(problem, options);
}

const MlaShape* shape_of_mla(const Options& options) {
    return options.shape.empty() ? nullptr : &mla_shape(options.shape);
}

KvFormat kv_of(const Options& options, const MlaShape* shape) {
    if (!options.format.empty()) return parse_kv_format(options.format);
    if (shape == nullptr) invalid("explain {}: give --format, or a --shape", options.op);
    return shape->formats.front();
}

std::int64_t dim_of(const Options& options, const MlaShape* shape, KvFormat format) {
    if (fixed_dim(format) > 0) return options.size("dim", fixed_dim(format));
    return options.size("dim", shape != nullptr ? shape->dim : kUnset);
}

Plan explain_sparse_attention(const Options& options) {
    const MlaShape* shape = shape_of_mla(options);
    const KvFormat format = kv_of(options, shape);
    mla::SparseAttentionProblem problem;
    if (shape != nullptr) problem = sparse_attention_problem(*shape, format, options.max_tokens);
    problem.max_tokens = options.max_tokens;
    problem.heads = options.int_size("heads", shape != nullptr ? shape->heads : kUnset);
    problem.dim = dim_of(options, shape, format);
    problem.value_dim = options.size("value-dim", shape != nullptr ? shape->value_dim : kUnset);
    if (problem.pools.empty()) problem.pools.push_back({.format = format});
    mla::KvPool& first = problem.pools.front();
    first.top_k = options.int_size("top-k", shape != nullptr ? first.top_k : kUnset);
    first.page_size = options.size("page-size", shape != nullptr ? first.page_size : 64);
    first.rows = options.size("pool-rows", shape != nullptr ? first.rows : 65536);
    return plan_of(problem, options);
}

Plan explain_merge_state(const Options& options) {
    const MlaShape* shape = shape_of_mla(options);
    mla::MergeStateProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.heads = options.int_size("heads", shape != nullptr ? shape->heads : kUnset);
    problem.dim = options.size("dim", shape != nullptr ? shape->value_dim : kUnset);
    return plan_of(problem, options);
}

Plan explain_paged_gather(const Options& options) {
    const MlaShape* shape = shape_of_mla(options);
    mla::PagedGatherProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.format = kv_of(options, shape);
    problem.dim = dim_of(options, shape, problem.format);
    problem.top_k = options.int_size("top-k", shape != nullptr ? shape->pools.front().top_k : kUnset);
    problem.page_size = options.size("page-size", 64);
    return plan_of(problem, options);
}

Plan explain_write_kv(const Options& options) {
    const MlaShape* shape = shape_of_mla(options);
    mla::WriteKvProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.format = kv_of(options, shape);
    problem.dim = dim_of(options, shape, problem.format);
    problem.page_size = options.size("page-size", 64);
    return plan_of(problem, options);
}

Plan explain_indexer(const Options& options) {
    mla::IndexerProblem problem;
    problem.max_tokens = options.max_tokens;
    problem.heads = options.int_size("heads", 64);
    problem.dim = options.size("dim", 128);
    problem.keys = options.size("keys", 65536);
    problem.top_k = options.int_size("top-k", 2048);
    return plan_of(problem, options);
}

using Explain = Plan (*)(const Options&);

const std::map<std::string, Explain>& operators() {
    static const std::map<std::string, Explain> table = {{"fused_moe", explain_fused_moe},
                                                         {"routed_gemm", explain_routed_gemm},
                                                         {"route", explain_route},
                                                         {"align", explain_align},
                                                         {"sum_reduce", explain_sum_reduce},
                                                         {"sparse_attention", explain_sparse_attention},
                                                         {"merge_state", explain_merge_state},
                                                         {"paged_gather", explain_paged_gather},
                                                         {"write_kv", explain_write_kv},
                                                         {"indexer", explain_indexer}};
    return table;
}

/// "moe" and "mla" stand for their main operators; "moe::route" and "mla::indexer" for the plain names.
Explain find_operator(std::string name) {
    if (name == "moe") name = "fused_moe";
    if (name == "mla") name = "sparse_attention";
    if (name.rfind("moe::", 0) == 0 || name.rfind("mla::", 0) == 0) name.erase(0, 5);
    const auto found = operators().find(name);
    if (found != operators().end()) return found->second;
    std::string known;
    for (const auto& [key, function] : operators()) known += ", " + key;
    invalid("explain: unknown operator '{}', known: moe, mla{}", name, known);
}

void explain(const Options& options) {
    const Plan plan = find_operator(options.op)(options);
    fmt::print("{}", plan.explain());
    if (!plan.state().refused.empty()) fmt::print("not for this problem\n");
    for (const auto& [variant, reason] : plan.state().refused) fmt::print("  {:<24} {}\n", variant, reason);
    if (options.tokens == kUnset) return;
    const PlanRow& row = plan.row_for(options.tokens);
    fmt::print("{} tokens: row {}, variant {}, source {}\n", options.tokens, row.tokens, row.variant, explain(row));
}

void add_sizes(CLI::App& command, Options& options) {
    static const std::map<std::string, std::string> texts = {
        {"hidden", "Hidden size"},
        {"intermediate", "Intermediate size of one expert"},
        {"experts", "Experts that ids may name"},
        {"local-experts", "Experts in the weights of this rank; 0: all"},
        {"top-k", "Experts per token; selected rows per token (first pool)"},
        {"rows", "Output width of routed_gemm"},
        {"cols", "Input width of routed_gemm"},
        {"block-size", "Block of align"},
        {"heads", "Query heads"},
        {"dim", "Width of a row"},
        {"value-dim", "Width of the value part of a row"},
        {"page-size", "Rows per page"},
        {"pool-rows", "Rows of the first pool"},
        {"keys", "Keys of the indexer"}};
    for (const auto& [name, text] : texts) {
        std::int64_t& value = options.sizes.emplace(name, kUnset).first->second;
        command.add_option("--" + name, value, text)->check(nonnegative_number())->group("Sizes");
    }
}

}  // namespace

void add_explain(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand(
        "explain", "The configuration that each token count gets, where it comes from, and the workspace");
    command->add_option("OP", options->op, "moe, mla, or an operator such as fused_moe, route, sparse_attention")
        ->required();
    std::string names;
    for (const std::string& name : moe_shape_names()) names += " " + name;
    for (const MlaShape& shape : mla_shapes()) names += " " + shape.name;
    command->add_option("--shape", options->shape, "Shape by model name:" + names);
    command->add_option("--format", options->format, "Weight or KV format; default: the model's own");
    command->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
    command->add_option("--max-tokens", options->max_tokens, "Largest call of the plan")
        ->check(nonnegative_number())
        ->capture_default_str();
    command->add_option("--tokens", options->tokens, "Say which row a call of this many tokens takes")
        ->check(nonnegative_number());
    command->add_option("--variant", options->variant, "Pin one variant by name");
    command->add_option("--max-sms", options->max_sms, "Leave the other SMs alone; 0: use all")
        ->check(CLI::Range(0, 1 << 20));
    command->add_option("--max-workspace-bytes", options->max_workspace_bytes, "Limit of the workspace; 0: none")
        ->check(nonnegative_number());
    add_sizes(*command, *options);
    command->callback([options, &status] {
        explain(*options);
        status = 0;
    });
}

}  // namespace tokamak::cli
