// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/pass_workspace.h"

#include <algorithm>

#include "moe/cuda/grouped/grouped_plan.h"
#include "moe/cuda/single/single_plan.h"
#include "moe/cuda/wide/wide_plan.h"
#include "moe/fused_moe_state.h"
#include "moe/routing_args.h"

namespace tokamak::moe::cuda {
namespace {

struct PassNeeds {
    std::int64_t tokens = 0;
    bool grouped = false;      ///< counts of the grouped kernel
    bool grid_lists = false;   ///< lists of routes that the grid makes
    bool wide = false;         ///< lists of the wide kernel
    bool converted = false;    ///< slots of weights that it converts
    bool route_first = false;  ///< ids (and weights) that a launch before makes
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
}

void lay_out_grid_lists(const FusedMoeProblem& p, std::size_t routes, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto experts = static_cast<std::size_t>(resolve_local_experts(p.num_experts, p.num_local_experts));
    cuda.grid_list = layout.add<std::int32_t>("grid_list", routes);
    cuda.grid_places = layout.add<std::uint32_t>("grid_places", routes);
    cuda.cta_counts = layout.add<std::int32_t>("cta_counts", experts * static_cast<std::size_t>(cuda.grid));
}

bool has_launch_before(const FusedMoeProblem& p) { return p.route.has_value() || p.batched_experts; }

/// First, so that every kernel finds them in the same place.
void lay_out_routed(const FusedMoeProblem& p, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(p.max_tokens * p.top_k);
    cuda.routed_ids = layout.add<std::int32_t>("routed_ids", routes);
    if (p.route) cuda.routed_weights = layout.add<float>("routed_weights", routes);
}

void lay_out_wide_lists(const FusedMoeProblem& p, std::size_t routes, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto experts = static_cast<std::size_t>(resolve_local_experts(p.num_experts, p.num_local_experts));
    cuda.wide_list = layout.add<std::int32_t>("wide_list", routes);
    cuda.wide_counts = layout.add<std::int32_t>("wide_counts", static_cast<std::size_t>(cuda.grid) * experts);
    cuda.wide_places = layout.add<std::int32_t>("wide_places", routes);
    cuda.wide_owners = layout.add<std::int32_t>("wide_owners", routes);
    cuda.wide_factors = layout.add<float>("wide_factors", routes);
    cuda.wide_ready = layout.add<std::int32_t>("wide_ready", routes + experts);
    cuda.wide_dealt = layout.add<std::int32_t>("wide_dealt", kWideCounters);
}

/// Whether a kernel of the problem converts weights to 8 bits.
bool converts_weights(const FusedMoeProblem& p) {
    const std::vector<WideInstance> instances = wide_instances(p.weights, p.quantize_activations);
    return std::any_of(instances.begin(), instances.end(), [](const WideInstance& one) { return one.converted; });
}

void lay_out_slots(const FusedMoeProblem& p, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    std::int64_t counts = 0;
    for (int phase = 0; phase < 2; ++phase) {
        const WideConversionPlan plan = wide_conversion(p, phase == 1, cuda.slot_experts);
        cuda.wide_slots[phase] = layout.add<std::byte>(phase == 1 ? "wide_down_slots" : "wide_gate_up_slots",
                                                       static_cast<std::size_t>(plan.slots * plan.slot_bytes));
        counts += 2 * plan.jobs;
    }
    cuda.wide_slot_counts = layout.add<std::int32_t>("wide_slot_counts", static_cast<std::size_t>(counts));
}

/// The wide kernel keeps whole blocks of 128 columns.
void lay_out_pass(const FusedMoeProblem& p, const PassNeeds& needs, WorkspaceLayout& layout, FusedMoeCuda& cuda) {
    const auto routes = static_cast<std::size_t>(needs.tokens * p.top_k);
    const auto padded = [](std::int64_t cols) { return static_cast<std::size_t>((cols + 127) / 128 * 128); };
    const bool fp8 = p.weights.format == WeightFormat::fp8_block;
    const bool codes = fp8 || needs.converted;  // rows of the wide kernel may be codes with scales
    if (needs.route_first) lay_out_routed(p, layout, cuda);
    if (fp8) lay_out_prepared(p, needs.tokens, layout, cuda);
    if (needs.grouped || needs.wide) cuda.tile_units = layout.add<std::int32_t>("tile_units", routes + kDealtUnitsRoom);
    if (needs.grid_lists) lay_out_grid_lists(p, routes, layout, cuda);
    if (needs.wide) lay_out_wide_lists(p, routes, layout, cuda);
    if (needs.converted) lay_out_slots(p, layout, cuda);
    cuda.intermediate = layout.add<std::byte>("intermediate", routes * padded(p.intermediate) * (codes ? 4 : 2));
    // The wide kernel has its rows of x behind its rows of results.
    std::size_t partial_cols = static_cast<std::size_t>(p.hidden);
    if (needs.wide)
        partial_cols = std::max(partial_cols, (fp8 ? padded(p.hidden) / 2 : padded(p.hidden)) + padded(p.hidden) / 2);
    cuda.partials = layout.add<float>("partials", routes * partial_cols);
}

std::size_t lay_out_single(const FusedMoeProblem& p, int segments, FusedMoeCuda& cuda) {
    WorkspaceLayout layout;
    cuda.published = layout.add<float>("published", published_floats(segments, cuda.grid));
    cuda.activated = layout.add<float>("activated", activated_floats(p));
    return layout.size().bytes;
}

/// As many as fit into a limited workspace, one pass of the decode kernel at least. A plan's table may hold variants of
/// several kernels, so all lists that the format knows have their place.
std::int64_t fitting_tokens(const FusedMoeProblem& p, std::int64_t most, const PlanOptions& options, int grid) {
    const PassNeeds all{.grouped = !grouped_instances(p.weights, p.quantize_activations).empty(),
                        .grid_lists = !grid_list_instances(p.weights, p.quantize_activations).empty(),
                        .wide = !wide_instances(p.weights, p.quantize_activations).empty(),
                        .converted = converts_weights(p),
                        .route_first = has_launch_before(p)};
    const auto fits = [&](std::int64_t tokens) {
        WorkspaceLayout layout;
        FusedMoeCuda unused{.grid = grid};
        unused.slot_experts = wide_slot_experts(p, options);
        PassNeeds needs = all;
        needs.tokens = tokens;
        lay_out_pass(p, needs, layout, unused);
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

}  // namespace

std::int64_t pass_tokens(const FusedMoeProblem& p, const PlanOptions& options, const FusedMoeCuda& cuda,
                         bool grid_lists) {
    return fitting_tokens(p, most_pass_tokens(p, grid_lists), options, cuda.grid);
}

std::int64_t wide_tokens(const FusedMoeProblem& p, const PlanOptions& options, const FusedMoeCuda& cuda) {
    return fitting_tokens(p, most_wide_tokens(p, cuda.grid), options, cuda.grid);
}

std::size_t least_bytes_with_single(const FusedMoeProblem& problem, int segments, int grid) {
    FusedMoeCuda unused{.grid = grid};
    WorkspaceLayout pass;
    lay_out_pass(
        problem,
        {.tokens = std::min<std::int64_t>(problem.max_tokens, kPassTokens), .route_first = has_launch_before(problem)},
        pass, unused);
    return std::max(pass.size().bytes, lay_out_single(problem, segments, unused));
}

void lay_out_workspace(FusedMoeState& state) {
    FusedMoeCuda& cuda = state.cuda;
    PassNeeds needs{.tokens = std::min<std::int64_t>(state.problem.max_tokens, kPassTokens)};
    int segments = 0;
    for (const std::size_t variant : state.row_variants) {
        const KernelOfVariant of = cuda.kernel_of(variant, state.problem.max_tokens);
        needs.route_first = needs.route_first || (of.takes_ids && has_launch_before(state.problem));
        if (of.decode != nullptr && of.decode->group_rows > 0)
            needs.tokens = std::max(needs.tokens, std::min(cuda.gather_tokens, state.problem.max_tokens));
        if (of.grouped != nullptr) {
            needs.grouped = true;
            needs.grid_lists = needs.grid_lists || of.grouped->grid_lists;
            needs.tokens = std::max(needs.tokens, of.grouped->grid_lists ? cuda.grid_pass_tokens : cuda.pass_tokens);
        }
        if (of.wide != nullptr) {
            needs.wide = true;
            needs.converted = needs.converted || of.wide->converted;
            needs.tokens = std::max(needs.tokens, cuda.wide_tokens);
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
