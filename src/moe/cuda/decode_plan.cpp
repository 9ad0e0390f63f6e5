// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_plan.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "moe/cuda/decode_logits.h"
#include "moe/cuda/shared_booking.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kLeastSlots = 2;
constexpr int kMostSlots = 6;
constexpr std::int64_t kMostRingBytes = 160 << 10;  ///< more in flight gained nothing in the layout probe
constexpr std::int64_t kEnoughRingBytes = 64 << 10;
constexpr int kGroupRows[] = {8, 6, 4};
constexpr int kBuffers = 2;  ///< of partial sums

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

std::int64_t padded_cols(const DecodeInstance& instance, std::int64_t cols) {
    return round_up(cols, instance.tile_cols);
}

std::int64_t row_bytes(const DecodeInstance& instance, std::int64_t cols, int rows) {
    return rows * (padded_cols(instance, cols) * instance.value_bytes + 16);
}

std::int64_t group_bytes(const DecodeInstance& instance, std::int64_t cols) {
    return instance.token_groups ? padded_cols(instance, cols) / instance.group * kPassTokens * 4 : 0;
}

std::int64_t bias_bytes(int teams) { return std::int64_t{teams} * kBuffers * 64 * 4; }

void book_pass_tables(const FusedMoeProblem& p, Booking& booking, DecodeShared& shared) {
    const int local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const std::int64_t routes = pass_routes(p.top_k);
    const std::int64_t active = std::min<std::int64_t>(routes, local);
    shared.active = booking.take(active * 4);
    shared.slot_of = booking.take(active * kPassTokens * 4);
    shared.route_expert = booking.take(routes * 2);
    shared.route_rank = booking.take(routes * 2);
    shared.route_weight = booking.take(routes * 4);
    shared.bitmap_words = (local + 127) / 128 * 4;
    shared.bitmap = booking.take((shared.bitmap_words + 2) * 4);
}

void book_group_tables(const FusedMoeProblem& p, std::int64_t tokens, int group_rows, Booking& booking,
                       DecodeShared& shared) {
    const std::int64_t local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const std::int64_t routes = tokens * p.top_k;
    const std::int64_t groups = std::min(routes, local) + routes / group_rows;
    shared.route_groups = booking.take((groups + 1) * 4);
    shared.route_list = booking.take(routes * 2);
    shared.live_words = static_cast<int>((routes + 31) / 32);
    shared.live_routes = booking.take((shared.live_words + 1) * 4);
}

/// The layout and its true size, which may pass every limit. `tokens`: of a pass with gathered rows.
std::int64_t lay_out(const DecodeInstance& instance, const FusedMoeProblem& p, std::int64_t tokens,
                     DecodeVariant& variant) {
    const bool gathered = variant.group_rows > 0;
    const int rows = gathered ? variant.group_rows : kPassTokens;
    // Rows of an expert differ between teams, and weighted ones differ between experts.
    const bool own_rows = gathered || p.routing_weight == RoutingWeight::input;
    const int x_teams = own_rows ? variant.gate_up_teams : 1;
    const std::int64_t x_rows = x_teams * row_bytes(instance, p.hidden, rows);
    const std::int64_t intermediate_rows = variant.down_teams * row_bytes(instance, p.intermediate, rows);
    DecodeShared& shared = variant.shared;
    Booking booking;
    booking.take(std::int64_t{instance.warps} * variant.slots * instance.piece_bytes);
    shared.scales = booking.take(instance.strip_scales ? std::int64_t{instance.warps} * variant.slots * 8 : 128);
    shared.partials = booking.take(std::max<std::int64_t>(
        std::int64_t{kBuffers} * instance.warps * 64 * rows * 4 / instance.pieces,
        gathered ? std::int64_t{8} * resolve_local_experts(p.num_experts, p.num_local_experts) + 64 : 0));
    const std::int64_t ids = tokens * p.top_k * 8;  // while the tables are built
    const std::int64_t scores = gathered ? ids : p.route ? std::int64_t{instance.warps} * kLaneRoom * 4 : 0;
    shared.rows = booking.take(std::max(
        {x_rows + bias_bytes(variant.gate_up_teams), intermediate_rows + bias_bytes(variant.down_teams), scores}));
    shared.gate_up_bias = shared.rows + static_cast<int>(x_rows);
    shared.down_bias = shared.rows + static_cast<int>(intermediate_rows);
    shared.groups = booking.take(std::max(x_teams * group_bytes(instance, p.hidden),
                                          variant.down_teams * group_bytes(instance, p.intermediate)));
    shared.barriers = booking.take(std::int64_t{instance.warps} * variant.slots * 8);
    if (gathered)
        book_group_tables(p, tokens, rows, booking, shared);
    else
        book_pass_tables(p, booking, shared);
    if (own_rows) {
        shared.x_team_rows = static_cast<int>(row_bytes(instance, p.hidden, rows));
        shared.x_team_groups = static_cast<int>(group_bytes(instance, p.hidden) / 4);
    }
    shared.team_rows = static_cast<int>(row_bytes(instance, p.intermediate, rows));
    shared.team_groups = static_cast<int>(group_bytes(instance, p.intermediate) / 4);
    shared.bytes = static_cast<int>(std::min<std::int64_t>(booking.bytes, 0x7FFFFFF0));
    return booking.bytes;
}

/// Gives the variant as many slots as fit; false if too few do.
bool fit(const DecodeInstance& instance, const FusedMoeProblem& problem, std::int64_t tokens, std::size_t shared_limit,
         DecodeVariant& variant) {
    const std::int64_t slot_bytes = std::int64_t{instance.warps} * instance.piece_bytes;
    const int most = static_cast<int>(std::min<std::int64_t>(kMostSlots, kMostRingBytes / slot_bytes));
    for (variant.slots = most; variant.slots >= kLeastSlots; --variant.slots)
        if (lay_out(instance, problem, tokens, variant) <= static_cast<std::int64_t>(shared_limit)) return true;
    return false;
}

/// Teams of 4 warps and more for gate/up, with the same, two-warp and one-warp teams for down. Where a tile has two
/// pieces, a team is a number of pairs of warps.
std::vector<DecodeVariant> all_teams(const DecodeInstance& instance, int group_rows) {
    const int warps = instance.warps;
    std::vector<DecodeVariant> variants;
    for (const int gate_up : {1, 2, 3}) {
        if (warps % gate_up != 0 || warps / gate_up < 4) continue;
        for (const int down : {gate_up, warps / 2, warps}) {
            if (warps / down % instance.pieces != 0) continue;
            const auto text = [warps](int teams) {
                return std::to_string(teams) + "x" + std::to_string(warps / teams);
            };
            const std::string kind = group_rows > 0 ? "gather_n" + std::to_string(group_rows) : "decode_n8";
            variants.push_back({kind + "_g" + text(gate_up) + "_d" + text(down), gate_up, down, 0, group_rows, {}});
        }
    }
    return variants;
}

/// How the warps of a CTA shall team up for a call.
struct Wish {
    int gate_up_teams;
    int down_warps;  ///< of a team
};

/// The fewest warps that take a down strip in 8 turns: they wait least for each other.
int down_warps_for(const DecodeInstance& instance, const FusedMoeProblem& p, int teams) {
    const std::int64_t pieces = padded_cols(instance, p.intermediate) / 64;
    int warps = 1;
    while (warps < instance.warps / teams && pieces > 8 * warps) ++warps;
    return warps;
}

/// A rule from what was measured, not more than 1% behind the best teams of any 4-bit shape
/// (docs/kernels/moe_decode.md).
Wish wish_for(const DecodeInstance& instance, const FusedMoeProblem& p, int sms, std::int64_t tokens) {
    const int local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const auto pass = static_cast<double>(std::clamp<std::int64_t>(tokens, 1, kPassTokens));
    const double hit = std::min(1.0, static_cast<double>(p.top_k) / p.num_experts);
    const double experts = std::max(1.0, local * (1.0 - std::pow(1.0 - hit, pass)));
    const double strips = experts * std::ceil(2.0 * static_cast<double>(p.intermediate) / 64.0);  // of gate/up
    // As many teams as an SM has strips: while one ends a strip, the others multiply.
    const auto teams = static_cast<int>(std::clamp(std::ceil(strips / sms), 1.0, instance.warps / 4.0));
    return {teams, down_warps_for(instance, p, teams)};
}

/// Groups of up to `rows` routes that are expected for each expert, for uniform routing.
double expected_groups(const FusedMoeProblem& p, std::int64_t tokens, int rows) {
    const double hit = std::min(1.0, static_cast<double>(p.top_k) / p.num_experts);
    if (hit == 1.0) return std::ceil(static_cast<double>(tokens) / rows);
    double probability = std::pow(1.0 - hit, static_cast<double>(tokens));  // of `n` routes
    double groups = 0.0;
    for (std::int64_t n = 1; n <= tokens; ++n) {
        probability *= static_cast<double>(tokens - n + 1) / static_cast<double>(n) * hit / (1.0 - hit);
        groups += probability * static_cast<double>((n + rows - 1) / rows);
    }
    return groups;
}

std::int64_t ring_bytes(const DecodeInstance& instance, const DecodeVariant& variant) {
    return std::int64_t{variant.slots} * instance.warps * instance.piece_bytes;
}

double distance(double a, double b) { return std::abs(std::log2(a / b)); }

}  // namespace

std::optional<DecodeInstance> decode_instance(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format != WeightFormat::fp8_block) return std::nullopt;
    switch (spec.format) {
        case WeightFormat::bf16: return decode_bf16();
        case WeightFormat::fp8_block: return quantized ? decode_fp8_block() : decode_fp8_block_a16();
        case WeightFormat::mxfp4: return decode_mxfp4();
        case WeightFormat::nvfp4: return decode_nvfp4();
        case WeightFormat::int4: break;
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32: return f16 ? decode_int4_g32_f16() : decode_int4_g32();
        case 64: return f16 ? decode_int4_g64_f16() : decode_int4_g64();
        case 128: return f16 ? decode_int4_g128_f16() : decode_int4_g128();
        default: return std::nullopt;
    }
}

std::optional<DecodeInstance> decode_logits_instance(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format != WeightFormat::fp8_block) return std::nullopt;
    switch (spec.format) {
        case WeightFormat::bf16: return decode_logits_bf16();
        case WeightFormat::fp8_block: return quantized ? decode_logits_fp8_block() : decode_logits_fp8_block_a16();
        case WeightFormat::mxfp4: return decode_logits_mxfp4();
        case WeightFormat::nvfp4: return decode_logits_nvfp4();
        case WeightFormat::int4: break;
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32: return f16 ? decode_logits_int4_g32_f16() : decode_logits_int4_g32();
        case 64: return f16 ? decode_logits_int4_g64_f16() : decode_logits_int4_g64();
        case 128: return f16 ? decode_logits_int4_g128_f16() : decode_logits_int4_g128();
        default: return std::nullopt;
    }
}

std::optional<DecodeInstance> gather_instance(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format != WeightFormat::fp8_block) return std::nullopt;
    switch (spec.format) {
        case WeightFormat::bf16: return gather_bf16();
        case WeightFormat::fp8_block: return quantized ? gather_fp8_block() : gather_fp8_block_a16();
        case WeightFormat::mxfp4: return gather_mxfp4();
        case WeightFormat::nvfp4: return gather_nvfp4();
        case WeightFormat::int4: break;
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32: return f16 ? gather_int4_g32_f16() : gather_int4_g32();
        case 64: return f16 ? gather_int4_g64_f16() : gather_int4_g64();
        case 128: return f16 ? gather_int4_g128_f16() : gather_int4_g128();
        default: return std::nullopt;
    }
}

std::vector<DecodeVariant> decode_variants(const DecodeInstance& instance, const FusedMoeProblem& problem,
                                           std::size_t shared_limit) {
    std::vector<DecodeVariant> variants;
    for (DecodeVariant& variant : all_teams(instance, 0))
        if (fit(instance, problem, kPassTokens, shared_limit, variant)) variants.push_back(variant);
    return variants;
}

std::int64_t gather_pass_tokens(const FusedMoeProblem& problem) noexcept {
    return std::min<std::int64_t>(kGatherTokens, kGatherRoutes / problem.top_k);
}

std::vector<DecodeVariant> gather_variants(const DecodeInstance& instance, const FusedMoeProblem& problem,
                                           std::int64_t pass_tokens, std::size_t shared_limit) {
    std::vector<DecodeVariant> variants;
    const std::size_t teams = all_teams(instance, kGroupRows[0]).size();
    for (std::size_t i = 0; i < teams; ++i) {
        std::optional<DecodeVariant> best;
        for (const int rows : kGroupRows) {
            DecodeVariant variant = all_teams(instance, rows)[i];
            if (!fit(instance, problem, pass_tokens, shared_limit, variant)) continue;
            // Rows or ring: which of them counts depends on the tokens (dsv3-tp8: 4 rows at 16 tokens, 8 at 128).
            const bool all_rows = instance.warps > 8 && variant.gate_up_teams == 1 &&
                                  variant.down_teams == instance.warps / instance.pieces;
            if (all_rows) {
                variants.push_back(variant);
                continue;
            }
            best = variant;
            if (ring_bytes(instance, variant) >= kEnoughRingBytes) break;
        }
        if (best) variants.push_back(*best);
    }
    return variants;
}

double expected_reads(const FusedMoeProblem& problem, std::int64_t tokens, std::int64_t pass_tokens, int group_rows) {
    const std::int64_t passes = tokens / pass_tokens;
    const std::int64_t rest = tokens - passes * pass_tokens;
    const double groups = static_cast<double>(passes) * expected_groups(problem, pass_tokens, group_rows) +
                          expected_groups(problem, rest, group_rows);
    const double hit = std::min(1.0, static_cast<double>(problem.top_k) / problem.num_experts);
    return groups / (1.0 - std::pow(1.0 - hit, static_cast<double>(tokens)));
}

std::size_t choose_gather_variant(const DecodeInstance& instance, const std::vector<DecodeVariant>& variants,
                                  const FusedMoeProblem& p, std::int64_t tokens) {
    const std::int64_t pass = std::min(tokens, gather_pass_tokens(p));
    const double tiles = static_cast<double>(padded_cols(instance, p.intermediate)) / instance.tile_cols;
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < variants.size(); ++i) {
        const DecodeVariant& v = variants[i];
        // What was measured: one team waits for its rows, and the end of a down strip costs where warps share it, the
        // more the fewer tiles it has; where they do, other widths than in the decode kernel lose too.
        const double teams = v.gate_up_teams == 1 ? 1.05 : 1.0 + 0.001 * v.gate_up_teams;
        const int down_warps = instance.warps / v.down_teams;
        const int wished = down_warps_for(instance, p, v.gate_up_teams);
        const double ends = down_warps == instance.pieces ? 0.0 : std::min(0.15, 0.8 / tiles);
        const double down = 1.0 + ends + (ends > 0.0 ? 0.02 * distance(down_warps, wished) : 0.0);
        const double ring = ring_bytes(instance, v) < kEnoughRingBytes ? 1.012 : 1.0;
        const double cost = expected_groups(p, pass, v.group_rows) * teams * down * ring;
        if (cost >= least) continue;
        least = cost;
        best = i;
    }
    return best;
}

std::size_t choose_variant(const DecodeInstance& instance, const std::vector<DecodeVariant>& variants,
                           const FusedMoeProblem& p, int sms, std::int64_t tokens) {
    const Wish wish = wish_for(instance, p, sms, tokens);
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < variants.size(); ++i) {
        const DecodeVariant& v = variants[i];
        const double cost = 2.0 * distance(v.gate_up_teams, wish.gate_up_teams) +
                            distance(static_cast<double>(instance.warps) / v.down_teams, wish.down_warps) +
                            (v.slots < 3 ? 0.5 : 0.0);  // too little in flight
        if (cost >= least) continue;
        least = cost;
        best = i;
    }
    return best;
}

}  // namespace tokamak::moe::cuda
