// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/legal_variants.h"

#include <algorithm>

#include "moe/cuda/pass_workspace.h"
#include "moe/routing_args.h"

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

/// Its units are counted in ints. Converted weights take a pair of CTAs that converts and one that multiplies.
std::vector<WideVariant> legal_wide(const FusedMoeProblem& p, int grid, const DeviceInfo& info) {
    if (std::max(p.hidden, p.intermediate) > kMostWideCols) return {};
    std::vector<WideVariant> variants = wide_variants(p, info.shared_memory_bytes);
    std::erase_if(variants, [&](const WideVariant& variant) {
        return variant.instance.converted && grid < kLeastConvertingGrid;
    });
    return variants;
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

/// Rows of an expert with uniform routing.
bool has_rows(const FusedMoeProblem& p, std::int64_t tokens, std::int64_t rows) {
    return tokens * p.top_k >= rows * p.num_experts;
}

/// Rows of an expert from which on the wide kernel is the faster (grouped / wide, us, results/h200/tuning.json). Long
/// rows: dsv3-ep16 and kimi-k2-e48 int4_g32 from 35 and 40 on, kimi-k2-e48 since from 28 on (21 / 32 rows 372 428 /
/// 524 479), bf16 at 4 / 8 689 701 / 681 686, fp8_block at 8 / 16 376 402 / 365 376 (dsv3-e32: from 15 on). With a
/// share of the experts, a short combine, sooner: dsv3-ep8 at 20 / 24 rows int4_g32 270 267 / 302 276, nvfp4 289 292 /
/// 324 301. Short ones: gpt-oss-120b mxfp4 at 22 / 24 649 662 / 684 668, qwen3-30b-a3b bf16 at 16 / 28 316 343 / 325
/// 335.
std::int64_t wide_from(const FusedMoeProblem& p) {
    const bool narrow = p.weights.format != WeightFormat::int4 ||
                        (p.weights.group_size == 32 && p.weights.scale_dtype == DType::bf16);  // has narrow row tiles
    if (p.weights.format == WeightFormat::fp8_block) return p.hidden >= 4096 ? 12 : 56;
    if (p.hidden < 4096) return narrow ? 26 : 56;
    if (p.weights.format == WeightFormat::bf16) return 8;
    if (narrow && resolve_local_experts(p.num_experts, p.num_local_experts) < p.num_experts) return 24;
    if (p.weights.format == WeightFormat::nvfp4) return 32;
    return narrow ? 28 : 48;
}

/// Whether the wide kernel is the faster; where gathered rows are the alternative, between 8 and 16 rows.
bool prefers_wide(const FusedMoeProblem& p, std::int64_t tokens, const LegalVariants& legal) {
    if (legal.wide.empty()) return false;
    if (legal.decode.empty() && legal.gather.empty() && legal.grouped.empty()) return true;
    return has_rows(p, tokens, legal.grouped.empty() ? 12 : wide_from(p));
}

/// Rows of an expert from which on mxfp4 weights are converted to 8 bits once for all its row tiles; below, e4m3 rows
/// are multiplied as 16-bit operands (mxfp4_a8, wide_n128 / wide_n96_bf16, us: dsv3-ep8 with 128 and 256 rows 1084 /
/// 777 and 1291 / 1288, gpt-oss-120b with 256 and 512 3701 / 3031 and 5212 / 5835).
constexpr std::int64_t kLeastConvertedRows = 320;

/// Whether tiles of 96 rows beat those of 128 however many rows experts have: scales of 32 or 16 columns leave the
/// latter too few registers (wide_n96 / wide_n128, us, dsv3-ep8 with 128, 256 and 512 rows, moe_wide_rounded.txt:
/// int4_g32 701 / 754, 1197 / 1245, 2287 / 2315, nvfp4 726 / 801, 1219 / 1303, 2326 / 2396; and the tuner's choice at
/// 1024).
bool prefers_tiles_of_96(const WeightSpec& weights) {
    return weights == WeightSpec::int4(32) || weights.format == WeightFormat::nvfp4;
}

/// The narrowest row tiles that hold nearly all experts (dsv3-ep8 int4_g32, 32 / 64 / 128 rows: wide_n64 394 / 623 /
/// 1028 us, wide_n96 432 / 475 / 899, wide_n128 438 / 521 / 862).
const WideVariant& choose_wide(const FusedMoeProblem& p, const LegalVariants& legal, std::int64_t tokens) {
    const WideVariant* best = &legal.wide.front();
    for (const WideVariant& variant : legal.wide) {
        const std::int64_t few = variant.instance.most_rows - variant.instance.most_rows / 4;
        const bool narrower = variant.instance.most_rows < best->instance.most_rows;
        if (narrower && (!has_rows(p, tokens, best->instance.converted ? kLeastConvertedRows : few) ||
                         (variant.instance.most_rows == 96 && prefers_tiles_of_96(p.weights))))
            best = &variant;
    }
    return *best;
}

/// A variant with one list of the grid for what takes several passes without (fp8_block, 8192 routes a pass: dsv3-e32
/// with 1024 tokens 1732 us without, 11% more with; dsv3-ep8 with 2048 tokens 900 and 714). Weights converted for wgmma
/// where experts have many rows (dsv3-ep8 int4_g32: 16 rows 302 us, 250 without; 32 rows 384 and 390).
const GroupedVariant& choose_grouped(const FusedMoeProblem& p, const LegalVariants& legal, std::int64_t pass,
                                     std::int64_t tokens) {
    const bool many = has_rows(p, tokens, 30);
    for (const GroupedVariant& variant : legal.grouped)
        if (variant.instance.converted ? many : !many && variant.instance.grid_lists == (tokens > pass)) return variant;
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
    if (problem.batched_experts)
        return {.grouped = legal_grouped(problem, cuda, info), .wide = legal_wide(problem, cuda.grid, info)};
    return {legal_decode(problem, info), legal_gather(problem, cuda.gather_tokens, info),
            legal_grouped(problem, cuda, info), legal_wide(problem, cuda.grid, info),
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
    if (wide) return choose_wide(p, legal, tokens).instance.name;
    if (many && !legal.grouped.empty()) return choose_grouped(p, legal, cuda.pass_tokens, tokens).instance.name;
    const auto instance = *decode_instance(p.weights, p.quantize_activations);
    return legal.decode[choose_variant(instance, legal.decode, p, cuda.grid, tokens)].name;
}

}  // namespace tokamak::moe::cuda
