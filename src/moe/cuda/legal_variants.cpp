// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/legal_variants.h"

#include "moe/cuda/pass_workspace.h"

namespace tokamak::moe::cuda {
namespace {

/// Tokens up to which the decode kernel is the faster where nothing gathers rows (16 tokens of qwen3.5-35b with
/// fp8_block: 104 us, the grouped kernel 95).
constexpr std::int64_t kMostDecodeTokens = kPassTokens;
std::vector<DecodeVariant> legal_decode(const FusedMoeProblem& p, const DeviceInfo& info) {
    const auto instance = decode_instance(p.weights, p.quantize_activations);
    if (!instance) return {};
    return decode_variants(*instance, p, info.shared_memory_bytes);
}

std::vector<DecodeVariant> legal_gather(const FusedMoeProblem& p, std::int64_t pass, const DeviceInfo& info) {
    const auto instance = gather_instance(p.weights, p.quantize_activations);
    if (!instance || pass <= kPassTokens) return {};
    return gather_variants(*instance, p, pass, info.shared_memory_bytes);
}

/// Its combine has a lane for each slot of a token.
std::vector<GroupedVariant> legal_grouped(const FusedMoeProblem& p, const FusedMoeCuda& cuda, const DeviceInfo& info) {
    if (p.top_k > 32) return {};
    std::vector<GroupedVariant> variants = grouped_variants(p, cuda.pass_tokens, info.shared_memory_bytes);
    for (const GroupedVariant& many : grid_list_variants(p, cuda.grid_pass_tokens, info.shared_memory_bytes))
        variants.push_back(many);
    return variants;
}

/// Its units are counted in ints.
std::vector<WideVariant> legal_wide(const FusedMoeProblem& p, const DeviceInfo& info) {
    constexpr std::int64_t most = std::int64_t{1} << 20;  // columns
    if (p.hidden > most || p.intermediate > most) return {};
    return wide_variants(p, info.shared_memory_bytes);
}

/// Those that fit into a limited workspace.
std::vector<SingleVariant> legal_single(const FusedMoeProblem& p, int grid, const DeviceInfo& info,
                                        const PlanOptions& options) {
    const auto instance = single_instance(p.weights, p.quantize_activations);
    if (!instance) return {};
    std::vector<SingleVariant> variants = single_variants(*instance, p, grid, info.shared_memory_bytes);
    if (variants.empty() || options.max_workspace_bytes == 0) return variants;
    const int segments = variants.front().gate_up_segments + variants.front().down_segments;
    if (least_bytes_with_single(p, segments, grid) > options.max_workspace_bytes) variants.clear();
    return variants;
}

/// Whether the wide kernel is the faster for a call with uniform routing (results/h200, moe_prefill.json and
/// tuning.json: from 32 rows of an expert in int4 and 16 in bf16 where rows are long, from 64 on qwen3-30b-a3b and
/// gpt-oss-120b, and where gathered rows are the alternative between 8 and 16).
bool prefers_wide(const FusedMoeProblem& p, std::int64_t tokens, const LegalVariants& legal) {
    if (legal.wide.empty()) return false;
    const std::int64_t long_rows = p.weights.format == WeightFormat::bf16 ? 16 : 32;
    const std::int64_t rows = legal.grouped.empty() ? 12 : p.hidden >= 4096 ? long_rows : 56;  // of an expert
    return tokens * p.top_k >= rows * p.num_experts;
}

/// A variant with one list of the grid for what takes several passes without (fp8_block, 8192 routes a pass: dsv3-e32
/// with 1024 tokens 1732 us without, 11% more with; dsv3-ep8 with 2048 tokens 900 and 714).
const GroupedVariant& choose_grouped(const LegalVariants& legal, std::int64_t pass, std::int64_t tokens) {
    for (const GroupedVariant& variant : legal.grouped)
        if (variant.instance.grid_lists == (tokens > pass)) return variant;
    return legal.grouped.front();
}

}  // namespace

std::vector<std::string> LegalVariants::names() const {
    std::vector<std::string> names;
    for (const DecodeVariant& variant : decode) names.push_back(variant.name);
    for (const DecodeVariant& variant : gather) names.push_back(variant.name);
    for (const GroupedVariant& variant : grouped) names.emplace_back(variant.instance.name);
    for (const WideVariant& variant : wide) names.emplace_back(variant.instance.name);
    for (const SingleVariant& variant : single) names.push_back(variant.name);
    return names;
}

LegalVariants legal_variants(const FusedMoeProblem& problem, const FusedMoeCuda& cuda, const DeviceInfo& info,
                             const PlanOptions& options) {
    return {legal_decode(problem, info), legal_gather(problem, cuda.gather_tokens, info),
            legal_grouped(problem, cuda, info), legal_wide(problem, info),
            legal_single(problem, cuda.grid, info, options)};
}

std::string default_variant(const FusedMoeProblem& p, const FusedMoeCuda& cuda, const LegalVariants& legal,
                            std::int64_t tokens) {
    if (tokens <= 1 && !legal.single.empty())
        return legal
            .single[choose_single(*single_instance(p.weights, p.quantize_activations), legal.single, p, cuda.grid)]
            .name;
    const bool many = tokens > kMostDecodeTokens || legal.decode.empty();
    const bool wide = many && prefers_wide(p, tokens, legal);
    if (many && !legal.gather.empty()) {
        const auto instance = *gather_instance(p.weights, p.quantize_activations);
        const DecodeVariant& best = legal.gather[choose_gather_variant(instance, legal.gather, p, tokens)];
        if ((legal.grouped.empty() && !wide) ||
            expected_reads(p, tokens, cuda.gather_tokens, best.group_rows) <= kMostGatherReads)
            return best.name;
    }
    if (wide) return legal.wide.front().instance.name;
    if (many && !legal.grouped.empty()) return choose_grouped(legal, cuda.pass_tokens, tokens).instance.name;
    const auto instance = *decode_instance(p.weights, p.quantize_activations);
    return legal.decode[choose_variant(instance, legal.decode, p, cuda.grid, tokens)].name;
}

}  // namespace tokamak::moe::cuda
