// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "core/throw.h"
#include "tokamak/tune.h"

namespace tokamak::cli::tuning {
namespace {

constexpr const char* kGiven = "given-sizes";

int as_int(const char* name, std::int64_t value) {
    if (value < 1 || value > std::numeric_limits<int>::max())
        invalid("tune: --{} is {}, expected 1 to {}", name, value, std::numeric_limits<int>::max());
    return static_cast<int>(value);
}

std::int64_t required(const TuneOptions& options, const char* name) {
    if (options.size(name) == 0) invalid("tune {}: give --{} with the other sizes, or --shapes", options.op, name);
    return options.size(name);
}

bool has_sizes(const TuneOptions& options) {
    return std::any_of(options.sizes.begin(), options.sizes.end(), [](const auto& size) { return size.second != 0; });
}

MoeShape given_moe(const TuneOptions& options) {
    if (options.formats.empty()) invalid("tune moe: given sizes need --formats");
    MoeShape shape;
    shape.name = kGiven;
    shape.experts = as_int("experts", required(options, "experts"));
    shape.hidden = required(options, "hidden");
    shape.intermediate = required(options, "intermediate");
    shape.top_k = as_int("top-k", required(options, "top-k"));
    return shape;
}

MlaShape given_mla(const TuneOptions& options) {
    if (options.formats.empty()) invalid("tune mla: given sizes need --formats");
    MlaShape shape;
    shape.name = kGiven;
    shape.heads = as_int("heads", required(options, "heads"));
    shape.dim = required(options, "dim");
    shape.value_dim = required(options, "value-dim");
    const std::int64_t page = options.size("page-size") == 0 ? 64 : options.size("page-size");
    shape.pools = {{as_int("top-k", required(options, "top-k")), page, 65536}};
    return shape;
}

/// "fp8_block" has e4m3 activations, "fp8_block_a16" has not.
TuneCase moe_case(const TuneOptions& options, const std::shared_ptr<const MoeShape>& shape, const std::string& format) {
    const bool a16 = format == "fp8_block_a16";
    const WeightSpec weights = a16 ? WeightSpec::fp8_block() : parse_weight_spec(format);
    if (shape->experts % options.ep != 0)
        invalid("tune moe: --ep is {}, expected a divisor of the {} experts of {}", options.ep, shape->experts,
                shape->name);
    TuneCase one{.op = "fused_moe", .shape = shape->name, .format = format, .moe_shape = shape};
    if (options.ep > 1) one.shape += fmt::format("/ep{}", options.ep);
    one.moe = fused_moe_problem(*shape, weights, options.buckets().back());
    one.moe.quantize_activations = weights.format == WeightFormat::fp8_block && !a16;
    if (options.ep > 1) one.moe.num_local_experts = shape->experts / options.ep;
    return one;
}

std::vector<TuneCase> moe_cases(const TuneOptions& options) {
    std::vector<std::shared_ptr<const MoeShape>> shapes;
    if (has_sizes(options)) shapes.push_back(std::make_shared<const MoeShape>(given_moe(options)));
    for (const std::string& name : options.shapes) shapes.push_back(std::make_shared<const MoeShape>(moe_shape(name)));
    if (shapes.empty())
        for (const MoeShape& shape : moe_shapes()) shapes.push_back(std::make_shared<const MoeShape>(shape));
    std::vector<TuneCase> cases;
    for (const auto& shape : shapes) {
        std::vector<std::string> formats = options.formats;
        if (formats.empty())
            for (const WeightSpec& spec : shape->formats) formats.push_back(to_string(spec));
        for (const std::string& format : formats) cases.push_back(moe_case(options, shape, format));
    }
    return cases;
}

std::vector<TuneCase> mla_cases(const TuneOptions& options) {
    std::vector<std::shared_ptr<const MlaShape>> shapes;
    if (has_sizes(options)) shapes.push_back(std::make_shared<const MlaShape>(given_mla(options)));
    for (const std::string& name : options.shapes) shapes.push_back(std::make_shared<const MlaShape>(mla_shape(name)));
    if (shapes.empty())
        for (const MlaShape& shape : mla_shapes()) shapes.push_back(std::make_shared<const MlaShape>(shape));
    std::vector<TuneCase> cases;
    for (const auto& shape : shapes) {
        std::vector<KvFormat> formats;
        for (const std::string& name : options.formats) formats.push_back(parse_kv_format(name));
        if (formats.empty()) formats = shape->formats;
        for (const KvFormat format : formats)
            if (fixed_dim(format) == 0 || fixed_dim(format) == shape->dim)
                cases.push_back({.op = "sparse_attention",
                                 .shape = shape->name,
                                 .format = to_string(format),
                                 .mla_shape = shape,
                                 .kv = format});
    }
    if (cases.empty()) invalid("tune mla: none of these formats has rows as wide as the shapes");
    return cases;
}

}  // namespace

std::vector<std::int64_t> TuneOptions::buckets() const {
    if (tokens.empty()) return tune::token_buckets(max_tokens);
    std::vector<std::int64_t> sorted = tokens;
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    return sorted;
}

std::int64_t TuneOptions::size(const std::string& name) const {
    const auto found = sizes.find(name);
    return found == sizes.end() ? 0 : found->second;
}

std::vector<TuneCase> tune_cases(const TuneOptions& options) {
    if (options.buckets().empty() || options.buckets().front() < 1)
        invalid("tune: --tokens is {}, expected counts of at least 1", fmt::join(options.tokens, ","));
    if (options.ep < 1) invalid("tune: --ep is {}, expected at least 1", options.ep);
    for (const std::string& name : options.routing) static_cast<void>(bench::parse_routing(name));
    return options.op == "moe" ? moe_cases(options) : mla_cases(options);
}

std::vector<std::string> probe_arguments(const TuneOptions& options, const TuneCase& one, const std::string& journal) {
    std::vector<std::string> arguments = {"tune", options.op, "--formats", one.format};
    if (has_sizes(options)) {
        for (const auto& [name, value] : options.sizes)
            if (value != 0) arguments.insert(arguments.end(), {"--" + name, std::to_string(value)});
    } else {
        const std::string& name = one.moe_shape ? one.moe_shape->name : one.mla_shape->name;
        arguments.insert(arguments.end(), {"--shapes", name});
    }
    const auto add = [&](const char* name, const std::string& value) {
        arguments.insert(arguments.end(), {name, value});
    };
    add("--tokens", fmt::format("{}", fmt::join(options.buckets(), ",")));
    if (options.op == "moe") {
        add("--ep", std::to_string(options.ep));
        add("--routing", fmt::format("{}", fmt::join(options.routing, ",")));
    }
    add("--device", to_string(options.device));
    add("--memory", std::to_string(options.memory_bytes));
    add("--candidate-seconds", fmt::format("{}", options.candidate_seconds));
    add("--probe", journal);
    return arguments;
}

}  // namespace tokamak::cli::tuning
