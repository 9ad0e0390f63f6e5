// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "cli/checkpoint_shape.h"
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

/// `parse`, whose errors then name the option that they are about.
template <class Parse>
auto parsed(const TuneOptions& options, const char* name, Parse parse) {
    try {
        return parse();
    } catch (const Error& error) {
        throw Error(error.code(), fmt::format("tune {}: --{}: {}", options.op, name, error.what()));
    }
}

bool has_sizes(const TuneOptions& options) {
    return std::any_of(options.sizes.begin(), options.sizes.end(), [](const auto& size) { return size.second != 0; });
}

MoeShape given_moe(const TuneOptions& options) {
    if (options.formats.empty()) invalid("tune moe: --formats is empty, expected one at least where sizes are given");
    MoeShape shape;
    shape.name = kGiven;
    shape.experts = as_int("experts", required(options, "experts"));
    shape.hidden = required(options, "hidden");
    shape.intermediate = required(options, "intermediate");
    shape.top_k = as_int("top-k", required(options, "top-k"));
    return shape;
}

MlaShape given_mla(const TuneOptions& options) {
    if (options.formats.empty()) invalid("tune mla: --formats is empty, expected one at least where sizes are given");
    MlaShape shape;
    shape.name = kGiven;
    shape.heads = as_int("heads", required(options, "heads"));
    shape.dim = required(options, "dim");
    shape.value_dim = required(options, "value-dim");
    const std::int64_t page = options.size("page-size") == 0 ? 64 : options.size("page-size");
    shape.pools = {{as_int("top-k", required(options, "top-k")), page, 65536}};
    return shape;
}

/// A shape, the formats asked for, and the options by which another process finds it.
template <class Shape>
struct Choice {
    std::shared_ptr<const Shape> shape;
    std::vector<std::string> formats;  ///< empty: its own
    std::vector<std::string> named;
    const char* format_option = "formats";  ///< where the formats are from
};

/// NAME or NAME:FORMAT.
template <class Shape>
Choice<Shape> named_choice(const TuneOptions& options, const std::string& text,
                           const Shape& (*by_name)(std::string_view)) {
    const std::size_t colon = text.find(':');
    const std::string name = text.substr(0, colon);
    const Shape& shape = *parsed(options, "shapes", [&] { return &by_name(name); });
    Choice<Shape> choice{std::make_shared<const Shape>(shape), options.formats, {"--shapes", name}};
    if (colon != std::string::npos) {
        choice.formats = {text.substr(colon + 1)};
        choice.format_option = "shapes";
    }
    return choice;
}

std::vector<std::string> given_sizes(const TuneOptions& options) {
    std::vector<std::string> arguments;
    for (const auto& [name, value] : options.sizes)
        if (value != 0) arguments.insert(arguments.end(), {"--" + name, std::to_string(value)});
    return arguments;
}

std::vector<Choice<MoeShape>> checkpoint_choices(const TuneOptions& options) {
    for (const auto& [name, value] : options.sizes)
        if (value != 0 && name != "top-k") invalid("tune moe: --{} contradicts --checkpoint, which has its own", name);
    if (!options.shapes.empty()) invalid("tune moe: give --shapes or --checkpoint, not both");
    const int top_k = options.size("top-k") == 0 ? 0 : as_int("top-k", options.size("top-k"));
    std::vector<Choice<MoeShape>> choices;
    for (CheckpointShape& found : checkpoint_shapes(options.checkpoint, options.layer, top_k)) {
        const std::vector<std::string> named = {"--checkpoint", options.checkpoint,
                                                "--layer",      std::to_string(found.layer),
                                                "--top-k",      std::to_string(found.shape.top_k)};
        choices.push_back({std::make_shared<const MoeShape>(std::move(found.shape)), options.formats, named});
    }
    return choices;
}

std::vector<Choice<MoeShape>> moe_choices(const TuneOptions& options) {
    if (!options.checkpoint.empty()) return checkpoint_choices(options);
    std::vector<Choice<MoeShape>> choices;
    if (has_sizes(options))
        choices.push_back(
            {std::make_shared<const MoeShape>(given_moe(options)), options.formats, given_sizes(options)});
    for (const std::string& text : options.shapes) choices.push_back(named_choice(options, text, &moe_shape));
    if (choices.empty())
        for (const MoeShape& shape : moe_shapes()) choices.push_back(named_choice(options, shape.name, &moe_shape));
    return choices;
}

std::vector<Choice<MlaShape>> mla_choices(const TuneOptions& options) {
    std::vector<Choice<MlaShape>> choices;
    if (has_sizes(options))
        choices.push_back(
            {std::make_shared<const MlaShape>(given_mla(options)), options.formats, given_sizes(options)});
    for (const std::string& text : options.shapes) choices.push_back(named_choice(options, text, &mla_shape));
    if (choices.empty())
        for (const MlaShape& shape : mla_shapes()) choices.push_back(named_choice(options, shape.name, &mla_shape));
    return choices;
}

TuneCase moe_case(const TuneOptions& options, const Choice<MoeShape>& choice, const std::string& format) {
    const MoeShape& shape = *choice.shape;
    const MoeFormat of = parsed(options, choice.format_option, [&] { return parse_moe_format(format); });
    TuneCase one{
        .op = "fused_moe", .shape = shape.name, .format = format, .named = choice.named, .moe_shape = choice.shape};
    one.moe = fused_moe_problem(shape, of.weights, options.buckets().back());
    one.moe.quantize_activations = of.quantize_activations;
    if (options.ep == 1) return one;
    if (shape.local > 0)
        invalid("tune moe: --ep is {}, expected 1: {} is a rank's part already", options.ep, shape.name);
    if (shape.experts % options.ep != 0)
        invalid("tune moe: --ep is {}, expected a divisor of the {} experts of {}", options.ep, shape.experts,
                shape.name);
    one.shape += fmt::format("/ep{}", options.ep);
    one.moe.num_local_experts = shape.experts / options.ep;
    return one;
}

std::vector<TuneCase> moe_cases(const TuneOptions& options) {
    std::vector<TuneCase> cases;
    for (const Choice<MoeShape>& choice : moe_choices(options)) {
        std::vector<std::string> formats = choice.formats;
        if (formats.empty())
            for (const WeightSpec& spec : choice.shape->formats) formats.push_back(to_string(spec));
        for (const std::string& format : formats) cases.push_back(moe_case(options, choice, format));
    }
    return cases;
}

std::vector<TuneCase> mla_cases(const TuneOptions& options) {
    std::vector<TuneCase> cases;
    for (const Choice<MlaShape>& choice : mla_choices(options)) {
        std::vector<KvFormat> formats;
        for (const std::string& name : choice.formats)
            formats.push_back(parsed(options, choice.format_option, [&] { return parse_kv_format(name); }));
        if (formats.empty()) formats = choice.shape->formats;
        for (const KvFormat format : formats)
            if (fixed_dim(format) == 0 || fixed_dim(format) == choice.shape->dim)
                cases.push_back({.op = "sparse_attention",
                                 .shape = choice.shape->name,
                                 .format = to_string(format),
                                 .named = choice.named,
                                 .mla_shape = choice.shape,
                                 .kv = format});
    }
    if (cases.empty())
        invalid("tune mla: --{} is {}, expected formats whose rows are as wide as those of the shapes",
                options.formats.empty() ? "shapes" : "formats",
                fmt::join(options.formats.empty() ? options.shapes : options.formats, ","));
    return cases;
}

/// "NAME:FORMAT" of each shape in its own formats.
std::vector<std::string> with_formats(std::span<const MoeShape> shapes) {
    std::vector<std::string> names;
    for (const MoeShape& shape : shapes)
        for (const WeightSpec& spec : shape.formats) names.push_back(shape.name + ":" + to_string(spec));
    return names;
}

}  // namespace

std::vector<std::int64_t> TuneOptions::buckets() const {
    std::vector<std::int64_t> list = tokens;
    if (list.empty()) {
        list = tune::token_buckets(max_tokens > 0 ? max_tokens : kFewTokens);
        const auto between = [&](std::int64_t count) { return (count & (count - 1)) != 0 && count != list.back(); };
        if (doubling) list.erase(std::remove_if(list.begin(), list.end() - 1, between), list.end() - 1);
        return list;
    }
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    return list;
}

bool TuneOptions::everything() const {
    return shapes.empty() && formats.empty() && checkpoint.empty() && ep == 1 && !has_sizes(*this);
}

std::int64_t TuneOptions::size(const std::string& name) const {
    const auto found = sizes.find(name);
    return found == sizes.end() ? 0 : found->second;
}

std::vector<TuneCase> tune_cases(const TuneOptions& options) {
    if (options.buckets().empty() || options.buckets().front() < 1)
        invalid("tune {}: --tokens is {}, expected counts of at least 1", options.op, fmt::join(options.tokens, ","));
    if (options.ep < 1) invalid("tune: --ep is {}, expected at least 1", options.ep);
    for (const std::string& name : options.routing)
        static_cast<void>(parsed(options, "routing", [&] { return bench::parse_routing(name); }));
    return options.op == "moe" ? moe_cases(options) : mla_cases(options);
}

std::vector<TuneOptions> tune_groups(const std::string& op, const TuneOptions& common) {
    std::vector<TuneOptions> groups;
    const auto add = [&](const char* name) -> TuneOptions& {
        groups.push_back(common);
        groups.back().op = name;
        return groups.back();
    };
    if (op == "moe" && !common.everything()) {
        add("moe");
        return groups;
    }
    const std::vector<std::string> many = with_formats(moe_prefill_shapes());
    if (op != "mla") {
        TuneOptions& few = add("moe");
        for (const std::string& name : with_formats(moe_shapes()))
            if (std::find(many.begin(), many.end(), name) == many.end()) few.shapes.push_back(name);
    }
    if (op != "moe") add("mla");
    if (op != "mla") {  // last: they take longest, and what others leave of a budget is theirs
        TuneOptions& large = add("moe");
        large.shapes = many;
        large.doubling = true;
        if (large.max_tokens == 0) large.max_tokens = kManyTokens;
    }
    return groups;
}

std::vector<std::string> probe_arguments(const TuneOptions& options, const TuneCase& one, const std::string& journal) {
    std::vector<std::string> arguments = {"tune", options.op, "--formats", one.format};
    arguments.insert(arguments.end(), one.named.begin(), one.named.end());
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
