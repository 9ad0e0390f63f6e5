// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/pass_workspace.h"

#include <algorithm>

#include "moe/cuda/grouped/grouped_plan.h"
#include "moe/cuda/kernel_args.h"
#include "moe/cuda/single/single_plan.h"
#include "moe/fused_moe_state.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

struct PassNeeds {
    std::int64_t tokens = 0;
    bool grid_lists = false;   ///< lists of routes that the grid makes
    bool route_first = false;  ///< ids and weights that a launch before makes
};

/// fp8_block: rows in another form, with their scales.
void lay_out_prepared(const FusedMoeProblem& p, std::int64_t tokens, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(tokens * p.top_k);
    const auto row_groups = static_cast<std::size_t>((std::max(p.hidden, p.intermediate) + 127) / 128);
    const auto groups = static_cast<std::size_t>((p.intermediate + 127) / 128);
    const std::size_t rows = p.routing_weight == RoutingWeight::input ? routes : static_cast<std::size_t>(tokens);
    cuda.prepared_rows = layout.add<std::uint16_t>("prepared_rows", rows * row_groups * 128);
    cuda.row_scales = layout.add<float>("row_scales", rows * row_groups);
    cuda.intermediate_scales = layout.add<float>("intermediate_scales", routes * groups);
    cuda.tile_groups = layout.add<std::int32_t>("tile_groups", routes);
}

void lay_out_grid_lists(const FusedMoeProblem& p, std::size_t routes, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto experts = static_cast<std::size_t>(resolve_local_experts(p.num_experts, p.num_local_experts));
    cuda.grid_list = layout.add<std::int32_t>("grid_list", routes);
    cuda.grid_places = layout.add<std::uint32_t>("grid_places", routes);
    cuda.cta_counts = layout.add<std::int32_t>("cta_counts", experts * static_cast<std::size_t>(cuda.grid));
}

void lay_out_pass(const FusedMoeProblem& p, const PassNeeds& needs, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(needs.tokens * p.top_k);
    const bool fp8 = p.weights.format == WeightFormat::fp8_block;
    std::size_t row_bytes = static_cast<std::size_t>(intermediate_stride(p)) * (fp8 ? 4 : 2);
    if (fp8) {
        lay_out_prepared(p, needs.tokens, layout, cuda);
        row_bytes = std::max(row_bytes, static_cast<std::size_t>((p.intermediate + 127) / 128) * 256);
    }
    if (needs.grid_lists) lay_out_grid_lists(p, routes, layout, cuda);
    cuda.intermediate = layout.add<std::byte>("intermediate", routes * row_bytes);
    cuda.partials = layout.add<float>("partials", routes * static_cast<std::size_t>(p.hidden));
    if (!needs.route_first) return;
    const auto all_routes = static_cast<std::size_t>(p.max_tokens * p.top_k);
    cuda.routed_ids = layout.add<std::int32_t>("routed_ids", all_routes);
    cuda.routed_weights = layout.add<float>("routed_weights", all_routes);
}

std::size_t lay_out_single(const FusedMoeProblem& p, int segments, FusedMoeCuda& cuda) {
    WorkspaceLayout layout;
    cuda.published = layout.add<float>("published", published_floats(segments, cuda.grid));
    cuda.activated = layout.add<float>("activated", activated_floats(p));
    return layout.size().bytes;
}

}  // namespace

std::int64_t pass_tokens(const FusedMoeProblem& p, const PlanOptions& options, const FusedMoeCuda& cuda,
                         bool grid_lists) {
    const std::int64_t most = most_pass_tokens(p, grid_lists);
    const auto fits = [&](std::int64_t tokens) {
        WorkspaceLayout layout;
        FusedMoeCuda unused{.grid = cuda.grid};
        lay_out_pass(p, {tokens, grid_lists, p.route.has_value()}, layout, unused);
        return layout.size().bytes <= options.max_workspace_bytes;
    };
    if (options.max_workspace_bytes == 0 || fits(most)) return most;
    std::int64_t low = std::min<std::int64_t>(most, kPassTokens);  // taken as fitting
    std::int64_t high = most;
    while (high - low > 1) {
        const std::int64_t middle = (low + high) / 2;
        (fits(middle) ? low : high) = middle;
    }
    return low;
}

std::size_t single_bytes(const FusedMoeProblem& problem, int segments, int grid) {
    FusedMoeCuda unused{.grid = grid};
    return lay_out_single(problem, segments, unused);
}

void lay_out_workspace(FusedMoeState& state) {
    FusedMoeCuda& cuda = state.cuda;
    PassNeeds needs{.tokens = std::min<std::int64_t>(state.problem.max_tokens, kPassTokens)};
    int segments = 0;
    for (const std::size_t variant : state.row_variants) {
        const KernelOfVariant of = cuda.kernel_of(variant);
        if (of.takes_ids) needs.route_first = state.problem.route.has_value();
        if (of.decode != nullptr && of.decode->group_rows > 0)
            needs.tokens = std::max(needs.tokens, cuda.gather_tokens);
        if (of.grouped != nullptr) {
            needs.grid_lists = needs.grid_lists || of.grouped->grid_lists;
            needs.tokens = std::max(needs.tokens, of.grouped->grid_lists ? cuda.grid_pass_tokens : cuda.pass_tokens);
        }
        if (of.single != nullptr) segments = std::max(segments, of.single->gate_up_segments + of.single->down_segments);
    }
    lay_out_pass(state.problem, needs, state.layout, cuda);
    if (segments == 0) return;
    const std::size_t pass_bytes = state.layout.size().bytes;
    const std::size_t own_bytes = lay_out_single(state.problem, segments, cuda);
    if (own_bytes > pass_bytes) state.layout.add<std::byte>("single", own_bytes - pass_bytes);
}

}  // namespace tokamak::moe::cuda
