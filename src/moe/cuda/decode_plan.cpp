// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/decode_plan.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kLeastSlots = 2;
constexpr int kMostSlots = 6;  ///< 64 to 110 KB in flight; more gained nothing in the layout probe
constexpr int kBuffers = 2;    ///< of partial sums
constexpr int kStripSumBytes = 64 * kPassTokens * 4;

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

std::int64_t padded_cols(const DecodeInstance& instance, std::int64_t cols) {
    return round_up(cols, instance.tile_cols);
}

std::int64_t row_bytes(const DecodeInstance& instance, std::int64_t cols) {
    return kPassTokens * (padded_cols(instance, cols) + 8) * 2;
}

std::int64_t sum_bytes(const DecodeInstance& instance, std::int64_t cols) {
    return instance.zero_point ? padded_cols(instance, cols) / instance.group * kPassTokens * 4 : 0;
}

/// Hands out pieces of shared memory, each aligned to 16 bytes. Offsets are meaningless once they pass 2^31, but then
/// the sum says so.
struct Booking {
    std::int64_t bytes = 0;
    int take(std::int64_t size) {
        const std::int64_t offset = bytes;
        bytes += round_up(size, 16);
        return static_cast<int>(std::min<std::int64_t>(offset, 0x7FFFFFF0));
    }
};

/// The layout and its true size, which may pass every limit.
std::int64_t lay_out(const DecodeInstance& instance, const FusedMoeProblem& p, int teams, int slots,
                     DecodeShared& shared) {
    const int local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const std::int64_t routes = pass_routes(p.top_k);
    const std::int64_t active = std::min<std::int64_t>(routes, local);
    const std::int64_t words = (local + 31) / 32;
    Booking booking;
    booking.take(std::int64_t{instance.warps} * slots * instance.tile_bytes);
    shared.partials = booking.take(std::int64_t{kBuffers} * instance.warps * kStripSumBytes);
    shared.rows = booking.take(std::max(row_bytes(instance, p.hidden), teams * row_bytes(instance, p.intermediate)));
    shared.sums = booking.take(std::max(sum_bytes(instance, p.hidden), teams * sum_bytes(instance, p.intermediate)));
    shared.barriers = booking.take(std::int64_t{instance.warps} * slots * 8);
    shared.active = booking.take(active * 4);
    shared.slot_of = booking.take(active * kPassTokens * 4);
    shared.route_rank = booking.take(routes * 4);
    shared.route_weight = booking.take(routes * 4);
    shared.bitmap = booking.take(words * 4 + (words + 1) * 4);
    shared.team_rows = static_cast<int>(row_bytes(instance, p.intermediate) / 2);
    shared.team_sums = static_cast<int>(sum_bytes(instance, p.intermediate) / 4);
    shared.bytes = static_cast<int>(std::min<std::int64_t>(booking.bytes, 0x7FFFFFF0));
    return booking.bytes;
}

std::vector<int> team_counts(const DecodeInstance& instance) {
    std::vector<int> counts;
    for (const int teams : {1, 2, 3})
        if (instance.warps % teams == 0 && instance.warps / teams >= 4) counts.push_back(teams);
    return counts;
}

/// Mean share of the teams that are busy while `experts` experts' strips are worked off.
double busy_share(double experts, std::int64_t strips, double teams) {
    const double items = experts * static_cast<double>(strips);
    return items / (teams * std::ceil(items / teams));
}

}  // namespace

std::optional<DecodeInstance> decode_instance(const WeightSpec& spec) {
    if (spec.format == WeightFormat::mxfp4) return decode_mxfp4();
    if (spec.format != WeightFormat::int4 || spec.scale_dtype != DType::bf16) return std::nullopt;
    switch (spec.group_size) {
        case 32: return decode_int4_g32();
        case 64: return decode_int4_g64();
        case 128: return decode_int4_g128();
        default: return std::nullopt;
    }
}

std::vector<DecodeVariant> decode_variants(const DecodeInstance& instance, const FusedMoeProblem& problem,
                                           std::size_t shared_limit) {
    std::vector<DecodeVariant> variants;
    for (const int teams : team_counts(instance))
        for (int slots = kMostSlots; slots >= kLeastSlots; --slots) {
            DecodeVariant variant{
                "decode_n8_g" + std::to_string(teams) + "x" + std::to_string(instance.warps / teams), teams, slots, {}};
            const std::int64_t bytes = lay_out(instance, problem, teams, slots, variant.shared);
            if (bytes > static_cast<std::int64_t>(shared_limit)) continue;
            variants.push_back(std::move(variant));
            break;
        }
    return variants;
}

std::size_t least_shared_bytes(const DecodeInstance& instance, const FusedMoeProblem& problem) {
    DecodeShared shared;
    return static_cast<std::size_t>(lay_out(instance, problem, 1, kLeastSlots, shared));
}

std::size_t choose_variant(const std::vector<DecodeVariant>& variants, const FusedMoeProblem& p, int sms,
                           std::int64_t tokens) {
    // A team of all warps has the finest grain; several teams hide each other's barriers, worth a few per cent. A ring
    // of two slots cannot keep the memory busy.
    constexpr double kBarrierCost = 0.04;
    const int local = resolve_local_experts(p.num_experts, p.num_local_experts);
    const auto pass = static_cast<double>(std::clamp<std::int64_t>(tokens, 1, kPassTokens));
    const double hit = std::min(1.0, static_cast<double>(p.top_k) / p.num_experts);
    const double experts = std::max(1.0, std::round(local * (1.0 - std::pow(1.0 - hit, pass))));
    std::size_t best = 0;
    double best_share = 0.0;
    for (std::size_t i = 0; i < variants.size(); ++i) {
        const double teams = static_cast<double>(sms) * variants[i].teams;
        const double gate_up = busy_share(experts, (2 * p.intermediate + 63) / 64, teams);
        const double down = busy_share(experts, (p.hidden + 63) / 64, teams);
        double share = 3.0 / (2.0 / gate_up + 1.0 / down);  // gate/up weights are twice the down weights
        if (variants[i].teams == 1) share *= 1.0 - kBarrierCost;
        if (variants[i].slots < 3) share *= 0.9;
        if (share <= best_share) continue;
        best_share = share;
        best = i;
    }
    return best;
}

}  // namespace tokamak::moe::cuda
