// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/options.h"

#include <algorithm>

#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
constexpr std::int64_t kPrefillTokens[] = {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
constexpr std::int64_t kFewTokens[] = {1, 8, 64};
constexpr std::int64_t kCaptured = 64;  ///< tokens of the graph that is replayed for fewer
constexpr std::int64_t kDeviceCounts[] = {1, 8};
constexpr const char* kMoeFormats[] = {"bf16",     "fp8_block", "fp8_block_a16", "int4_g32",
                                       "int4_g64", "int4_g128", "mxfp4",         "nvfp4"};

bool contains(const auto& list, const auto& value) {
    return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

MoeCase make_case(const MoeShape& shape, const std::string& format, std::int64_t max_tokens) {
    const auto [weights, quantize_activations] = parse_moe_format(format);
    MoeCase result{&shape, format, fused_moe_problem(shape, weights, max_tokens), false};
    result.problem.quantize_activations = quantize_activations;
    result.published = to_string(weights) == format && contains(shape.formats, weights);
    return result;
}

template <class Shape>
std::vector<const Shape*> chosen_shapes(const DecodeOptions& options, std::span<const Shape> all,
                                        const Shape& (*by_name)(std::string_view)) {
    std::vector<const Shape*> chosen;
    for (const std::string& name : options.shapes) chosen.push_back(&by_name(name));
    if (options.shapes.empty())
        for (const Shape& shape : all) chosen.push_back(&shape);
    return chosen;
}

std::vector<Routing> routings(const DecodeOptions& options) {
    std::vector<Routing> list;
    for (const std::string& name : options.routing) list.push_back(parse_routing(name));
    if (list.empty()) list = {Routing::uniform, Routing::balanced, Routing::zipf};
    return list;
}

}  // namespace

const char* to_string(Mode mode) noexcept {
    switch (mode) {
        case Mode::owning: return "owning";
        case Mode::workspace: return "workspace";
        case Mode::graph: return "graph";
    }
    return "";
}

Mode parse_mode(std::string_view name) {
    for (const Mode mode : {Mode::owning, Mode::workspace, Mode::graph})
        if (name == to_string(mode)) return mode;
    fail(ErrorCode::parse, "unknown mode '{}', known: owning, workspace, graph", name);
}

bool DecodeOptions::wants(const std::string& op) const { return ops.empty() || contains(ops, op); }

std::vector<std::int64_t> DecodeOptions::token_counts() const {
    if (!tokens.empty()) return tokens;
    if (prefill) return {std::begin(kPrefillTokens), std::end(kPrefillTokens)};
    return {std::begin(kTokens), std::end(kTokens)};
}

std::vector<Mode> DecodeOptions::mode_list() const {
    std::vector<Mode> list;
    for (const std::string& name : modes) list.push_back(parse_mode(name));
    if (list.empty()) list = {Mode::owning, Mode::workspace, Mode::graph};
    return list;
}

std::int64_t DecodeOptions::max_tokens() const {
    const auto counts = token_counts();
    return *std::max_element(counts.begin(), counts.end());
}

std::vector<MoeCase> moe_cases(const DecodeOptions& options) {
    std::vector<MoeCase> cases;
    for (const MoeShape* shape : chosen_shapes(options, moe_shapes(), moe_shape)) {
        std::vector<std::string> formats = options.formats;
        if (formats.empty()) formats.assign(std::begin(kMoeFormats), std::end(kMoeFormats));
        for (const std::string& format : formats) cases.push_back(make_case(*shape, format, options.max_tokens()));
    }
    // The published formats first: they matter most where time runs out.
    std::stable_partition(cases.begin(), cases.end(), [](const MoeCase& c) { return c.published; });
    return cases;
}

std::vector<MoeCase> prefill_cases(const DecodeOptions& options) {
    std::vector<MoeCase> cases;
    for (const MoeShape* shape : chosen_shapes(options, moe_prefill_shapes(), moe_shape)) {
        std::vector<std::string> formats = options.formats;
        if (formats.empty()) {
            for (const WeightSpec& spec : shape->formats) formats.push_back(to_string(spec));
            formats.insert(formats.end(), shape->more_formats.begin(), shape->more_formats.end());
        }
        for (const std::string& format : formats) cases.push_back(make_case(*shape, format, options.max_tokens()));
    }
    return cases;
}

std::vector<DecodeCall> prefill_calls(const DecodeOptions& options) {
    std::vector<DecodeCall> calls;
    const auto list = routings(options);
    for (const Routing routing : list)
        for (const std::int64_t tokens : options.token_counts())
            for (const Mode mode : options.mode_list())
                if (!options.modes.empty() || mode == Mode::graph || routing == list.front())
                    calls.push_back({tokens, tokens, routing, mode});
    return calls;
}

std::vector<std::int64_t> from_logits_counts(const DecodeOptions& options, const MoeCase& layer) {
    constexpr std::string_view always[] = {"dsv3-tp8", "qwen3.5-35b"};
    const bool chosen = contains(options.shapes, layer.shape->name) || contains(always, layer.shape->name);
    if (!layer.published || !chosen || !options.wants("from_logits") || !contains(options.mode_list(), Mode::graph))
        return {};
    std::vector<std::int64_t> counts;
    for (const std::int64_t tokens : kFewTokens)
        if (contains(options.token_counts(), tokens)) counts.push_back(tokens);
    return counts;
}

std::vector<MlaCase> mla_cases(const DecodeOptions& options) {
    std::vector<MlaCase> cases;
    for (const MlaShape* shape : chosen_shapes(options, mla_shapes(), mla_shape)) {
        std::vector<KvFormat> formats;
        for (const std::string& name : options.formats) formats.push_back(parse_kv_format(name));
        if (formats.empty()) formats = shape->formats;
        for (const KvFormat format : formats)
            if (fixed_dim(format) == 0 || fixed_dim(format) == shape->dim) cases.push_back({shape, format});
    }
    if (cases.empty()) invalid("bench mla: none of these formats has rows as wide as the shapes");
    return cases;
}

std::vector<DecodeCall> moe_calls(const DecodeOptions& options, bool published) {
    const bool asked =
        !options.formats.empty() || !options.tokens.empty() || !options.routing.empty() || !options.modes.empty();
    std::vector<DecodeCall> calls;
    if (!published && !asked) {
        for (const std::int64_t tokens : kFewTokens) calls.push_back({tokens, tokens, Routing::uniform, Mode::graph});
        return calls;
    }
    calls = prefill_calls(options);
    if (contains(options.mode_list(), Mode::graph) && contains(options.token_counts(), kCaptured))
        for (const std::int64_t count : kDeviceCounts)
            calls.push_back({kCaptured, count, routings(options).front(), Mode::graph});
    return calls;
}

}  // namespace tokamak::cli::bench
