// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/wide/wide_plan.h"

#include <algorithm>

#include "moe/cuda/shared_booking.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kLeastStages = 2;
// Building the lists takes the place of two stages, 100 KB: 8 bytes for each expert, 4 for each route of a CTA. Where
// rows are quantised a CTA's last token is whole: up to 1024 routes more.
constexpr int kMostExperts = 4096;
constexpr std::int64_t kMostCtaRoutes = 15360;
constexpr std::int64_t kFactsBytes = 32;

/// Experts whose converted weights have their slots at once.
constexpr std::int64_t kSlotExperts = 4;

/// What the weights of an expert take of multiprocessors: converting them, multiplying by them, and that for each row
/// (dsv3-ep8, milliseconds of one for 32 experts: 48 to 54, and as fp8_block 10 and 0.33).
constexpr double kConversionWork = 54.0;
constexpr double kUnitWork = 10.0;
constexpr double kRowWork = 0.33;

/// Of shared memory, in the place of the ring, that a CTA needs to convert weights: 512 for each 64 columns.
std::int64_t convert_bytes(const FusedMoeProblem& problem) {
    return (std::max(problem.hidden, problem.intermediate) + 63) / 64 * 512 + 34 * 1024;
}

/// The layout and its size. Scaled: the consumers of a unit find scales of rows together.
std::int64_t lay_out(std::int64_t experts, bool scaled, bool overlaps, WideVariant& variant) {
    WideShared& shared = variant.shared;
    Booking booking;
    booking.take(std::int64_t{variant.stages} * variant.instance.stage_bytes);
    shared.barriers = booking.take(std::int64_t{variant.stages} * 16 + 8);
    shared.facts = booking.take(kFactsBytes);
    shared.patches = booking.take((variant.instance.threads / 32 - 4) * kWidePatchBytes);
    if (scaled) {
        const int row_bytes = variant.instance.quantized ? kWideGroupRowBytes : kWideRoundRowBytes;
        shared.group = booking.take(std::int64_t{variant.instance.most_rows} * row_bytes + kWideGroupBytes);
    }
    if (variant.instance.quantized) shared.early = booking.take(8 * kWideTallBytes);
    if (variant.instance.converted) shared.slots = booking.take(kWideSlotBytes);
    if (variant.instance.end_bytes > 0) shared.group = booking.take(kWideEnds * variant.instance.end_bytes);
    if (overlaps) shared.early = booking.take(std::int64_t{kWideIdleWarps} * kWideEarlyBytes);
    shared.deals = booking.take(std::int64_t{kWideDeals} * (kWideDealBytes + 8));
    shared.begins = booking.take((experts + 1) * 4);
    shared.tiles = booking.take((experts + 1) * 4);
    shared.bytes = static_cast<int>(booking.bytes);
    return booking.bytes;
}

/// Stages of a ring at most, where what the ends of units need is brought (WideUnitEnd): fewer than the units of as
/// many turns have, one of which may be the end of a phase.
int most_stages(const FusedMoeProblem& problem, const WideInstance& instance) {
    if (instance.end_bytes == 0) return kMostWideStages;
    const std::int64_t least =
        (std::min(problem.hidden, problem.intermediate) + instance.stage_cols - 1) / instance.stage_cols;
    return static_cast<int>(std::min<std::int64_t>(kMostWideStages, (kWideEnds - 1) * least - 1));
}

/// Bytes that building the lists takes at most: for each expert and for each route of a CTA's share.
std::int64_t list_bytes(const FusedMoeProblem& problem, std::int64_t experts) {
    return 12 * experts + 4 * std::min(kMostCtaRoutes, problem.max_tokens * problem.top_k);
}

}  // namespace

std::vector<WideInstance> wide_instances(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format == WeightFormat::mxfp4)
        return {wide_mxfp4_a8_n128(), wide_mxfp4_a8_n96_bf16(), wide_mxfp4_a8_n64_bf16()};
    if (quantized && spec == WeightSpec::int4(32)) return {wide_int4_g32_a8_n96(), wide_int4_g32_a8_n64()};
    if (quantized && spec.format != WeightFormat::fp8_block) return {};
    switch (spec.format) {
        case WeightFormat::fp8_block:
            if (quantized) return {wide_fp8_block_n128()};
            return {};
        case WeightFormat::bf16: return {wide_bf16_n160()};
        case WeightFormat::mxfp4: return {wide_mxfp4_n128(), wide_mxfp4_n48(), wide_mxfp4_n64(), wide_mxfp4_n96()};
        case WeightFormat::nvfp4: return {wide_nvfp4_n128(), wide_nvfp4_n48(), wide_nvfp4_n64(), wide_nvfp4_n96()};
        case WeightFormat::int4: break;
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32:
            if (f16) return {wide_int4_g32_f16_n128()};
            return {wide_int4_g32_n128(), wide_int4_g32_n64(), wide_int4_g32_n96()};
        case 64: return {f16 ? wide_int4_g64_f16_n128() : wide_int4_g64_n128()};
        case 128: return {f16 ? wide_int4_g128_f16_n128() : wide_int4_g128_n128()};
        default: return {};
    }
}

std::int64_t most_wide_tokens(const FusedMoeProblem& problem, int grid) noexcept {
    return std::min(problem.max_tokens, std::max<std::int64_t>(1, wide_grid(grid) * kMostCtaRoutes / problem.top_k));
}

std::int64_t wide_slot_experts(const FusedMoeProblem& p, const PlanOptions& options) {
    if (options.max_workspace_bytes != 0) return 1;
    return std::min<std::int64_t>(resolve_local_experts(p.num_experts, p.num_local_experts), kSlotExperts);
}

WideConversionPlan wide_conversion(const FusedMoeProblem& p, bool down, std::int64_t experts) {
    const std::int64_t rows = down ? p.hidden : 2 * p.intermediate;
    const std::int64_t cols = down ? p.intermediate : p.hidden;
    WideConversionPlan plan;
    plan.units = static_cast<int>(((rows + 63) / 64 + 7) / 8 * 2);
    plan.tiles = (cols + 127) / 128;
    plan.slot_bytes = plan.tiles * kWideSlotStrips * kWideSlotTileBytes + kWideSlotRows * 4;
    plan.slots = plan.units * experts;
    plan.jobs = plan.units * std::int64_t{resolve_local_experts(p.num_experts, p.num_local_experts)};
    return plan;
}

int wide_converters(const FusedMoeProblem& problem, int grid, std::int64_t tokens) {
    const double rows = static_cast<double>(tokens) * problem.top_k / problem.num_experts;  // of an expert
    const int wanted = static_cast<int>(grid * kConversionWork / (kConversionWork + kUnitWork + kRowWork * rows));
    return std::clamp(wanted, 2, grid - 2) / 2 * 2;
}

std::vector<WideVariant> wide_variants(const FusedMoeProblem& problem, std::size_t shared_limit) {
    const std::int64_t experts = resolve_local_experts(problem.num_experts, problem.num_local_experts);
    std::vector<WideVariant> variants;
    if (experts > kMostExperts) return variants;
    for (const WideInstance& instance : wide_instances(problem.weights, problem.quantize_activations)) {
        const bool overlaps = !instance.quantized && problem.intermediate >= kWideOverlapCols;
        WideVariant variant{.instance = instance, .stages = most_stages(problem, instance), .shared = {}};
        while (variant.stages >= kLeastStages && lay_out(experts, problem.quantize_activations, overlaps, variant) >
                                                     static_cast<std::int64_t>(shared_limit))
            --variant.stages;
        // Two stages of few rows are less than two of many.
        if (instance.end_bytes > 0 && list_bytes(problem, experts) > variant.stages * instance.stage_bytes) continue;
        if (instance.converted && convert_bytes(problem) > variant.stages * instance.stage_bytes) continue;
        if (variant.stages >= kLeastStages) variants.push_back(variant);
    }
    return variants;
}

}  // namespace tokamak::moe::cuda
