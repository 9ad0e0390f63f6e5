// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/grouped/grouped_plan.h"

#include <algorithm>

#include "moe/cuda/shared_booking.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kLeastStages = 2;

/// The layout and its size.
std::int64_t lay_out(const FusedMoeProblem& p, std::int64_t pass_tokens, GroupedVariant& variant) {
    const std::int64_t experts = resolve_local_experts(p.num_experts, p.num_local_experts);
    const std::int64_t routes = pass_tokens * p.top_k;
    const std::int64_t warps = variant.instance.threads / 32;
    const bool grid_lists = variant.instance.grid_lists;
    const std::int64_t listed = grid_lists ? 0 : routes;  // in shared memory
    const std::int64_t building = grid_lists ? experts * 8 : experts * 4 + warps * experts * 2 + (routes + 32) * 4;
    GroupedShared& shared = variant.shared;
    Booking booking;
    booking.take(std::max<std::int64_t>(std::int64_t{variant.stages} * variant.instance.stage_bytes, building));
    shared.barriers = booking.take(std::int64_t{variant.stages} * 16);
    shared.counts = booking.take(32);
    shared.deals = booking.take(kUnitDeals * kUnitDealBytes);
    shared.list = booking.take(listed * 2);
    shared.tiles = booking.take((std::min(experts, routes) + routes / variant.instance.tile_rows) *
                                static_cast<std::int64_t>(sizeof(RowTile)));
    shared.route_expert = booking.take(listed * 2);
    shared.tile_ends = booking.take(variant.instance.units != nullptr ? experts * 2 : 0);
    shared.maxima = booking.take(std::int64_t{variant.instance.tile_rows} * 8);
    shared.unit_routes = booking.take(grid_lists ? std::int64_t{variant.instance.tile_rows} * 8 : 0);
    shared.bytes = static_cast<int>(booking.bytes);
    return booking.bytes;
}

std::vector<GroupedVariant> fitting(const std::vector<GroupedInstance>& instances, const FusedMoeProblem& problem,
                                    std::int64_t pass_tokens, std::size_t shared_limit) {
    std::vector<GroupedVariant> variants;
    for (const GroupedInstance& instance : instances) {
        GroupedVariant variant{.instance = instance, .stages = instance.most_stages, .shared = {}};
        while (variant.stages >= kLeastStages &&
               lay_out(problem, pass_tokens, variant) > static_cast<std::int64_t>(shared_limit))
            --variant.stages;
        if (variant.stages >= kLeastStages) variants.push_back(variant);
    }
    return variants;
}

int pieces_of(int cols) {
    const int columns = cols % 4 == 0 ? 128 : 32;
    return (cols + columns - 1) / columns;
}

}  // namespace

CombineCut::CombineCut(int cols, std::int64_t tokens, std::int64_t shares) : pieces(pieces_of(cols)) {
    cut(static_cast<int>(std::clamp<std::int64_t>(tokens * pieces / shares, 1, kCombinePieces)));
}

CombineCut CombineCut::short_jobs(int cols, std::int64_t tokens, std::int64_t warps) {
    CombineCut jobs;
    jobs.pieces = pieces_of(cols);
    jobs.cut(
        static_cast<int>(std::clamp<std::int64_t>((tokens * jobs.pieces + warps - 1) / warps, 1, kShortJobPieces)));
    return jobs;
}

void CombineCut::cut(int most) {
    const int count = (pieces + most - 1) / most;
    length = (pieces + count - 1) / count;
    parts = Divisor(count);
}

std::vector<GroupedInstance> grouped_instances(const WeightSpec& spec, bool quantized) {
    if (quantized && spec.format != WeightFormat::fp8_block) return {};
    switch (spec.format) {
        case WeightFormat::bf16: return grouped_bf16();
        case WeightFormat::fp8_block: return quantized ? grouped_fp8_block() : grouped_fp8_block_a16();
        case WeightFormat::mxfp4: return grouped_mxfp4();
        case WeightFormat::nvfp4: return grouped_nvfp4();
        case WeightFormat::int4: break;
        default: return {};
    }
    const bool f16 = spec.scale_dtype == DType::f16;
    switch (spec.group_size) {
        case 32: return f16 ? grouped_int4_g32_f16() : grouped_int4_g32();
        case 64: return f16 ? grouped_int4_g64_f16() : grouped_int4_g64();
        case 128: return f16 ? grouped_int4_g128_f16() : grouped_int4_g128();
        default: return {};
    }
}

std::vector<GroupedInstance> grid_list_instances(const WeightSpec& spec, bool quantized) {
    if (spec.format == WeightFormat::fp8_block && quantized) return grouped_fp8_block_many();
    return {};
}

std::int64_t most_pass_tokens(const FusedMoeProblem& problem, bool grid_lists) noexcept {
    return std::min<std::int64_t>(problem.max_tokens, (grid_lists ? kMostGridRoutes : kMostPassRoutes) / problem.top_k);
}

std::vector<GroupedVariant> grouped_variants(const FusedMoeProblem& problem, std::int64_t pass_tokens,
                                             std::size_t shared_limit) {
    return fitting(grouped_instances(problem.weights, problem.quantize_activations), problem, pass_tokens,
                   shared_limit);
}

std::vector<GroupedVariant> grid_list_variants(const FusedMoeProblem& problem, std::int64_t pass_tokens,
                                               std::size_t shared_limit) {
    return fitting(grid_list_instances(problem.weights, problem.quantize_activations), problem, pass_tokens,
                   shared_limit);
}

}  // namespace tokamak::moe::cuda
