// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/kernel_args.h"

#include "moe/fused_moe_state.h"

namespace tokamak::moe::cuda {
namespace {

DecodeRows rows_of(const Tensor& tensor) {
    if (!tensor.present) return {};
    return {tensor.data, tensor.stride(0), tensor.dtype};
}

DecodeMatrix matrix_of(const PackedLayout& layout) {
    return {.cols = static_cast<int>(layout.cols),
            .padded_cols = static_cast<int>(layout.tiles * layout.tile_cols),
            .row_vectors = Divisor(layout.tiles * layout.tile_cols / 8),
            .strip_bytes = static_cast<std::int64_t>(layout.strip_bytes),
            .strips = static_cast<int>(layout.strips),
            .by_strips = Divisor(layout.strips),
            .tiles = static_cast<int>(layout.tiles)};
}

void add_matrix(const Tensor& packed, const Tensor& bias, DecodeMatrix& to) {
    to.packed = packed.as<std::uint8_t>();
    to.expert_bytes = packed.stride(0);
    to.bias = rows_of(bias);
}

bool vector_rows(const Tensor& x) {
    return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride(0) * 2 % 16 == 0;
}

DecodeRoute route_of(const FusedMoeProblem& p) {
    DecodeRoute route{.softmax = p.route->method == RouteMethod::softmax,
                      .renormalize = p.route->renormalize,
                      .weighted = p.routing_weight != RoutingWeight::none,
                      .factor = p.route->routed_scaling_factor,
                      .in_registers = routes_in_registers(p)};
    if (p.route->top_groups < p.route->num_groups) {
        route.groups = static_cast<std::int16_t>(p.route->num_groups);
        route.top_groups = static_cast<std::int16_t>(p.route->top_groups);
        route.group_lanes = static_cast<std::int16_t>(p.num_experts / route.groups / kLaneExperts);
    }
    return route;
}

void add_scores(const FusedMoeArgs& args, DecodeRoute& to) {
    to.logits = rows_of(args.logits);
    to.bias = args.correction_bias.present ? args.correction_bias.as<float>() : nullptr;
    const auto row_bytes = static_cast<std::uintptr_t>(to.logits.stride) * size_of(to.logits.dtype);
    to.vectors =
        (reinterpret_cast<std::uintptr_t>(to.logits.data) | row_bytes | reinterpret_cast<std::uintptr_t>(to.bias)) %
            16 ==
        0;
}

}  // namespace

bool routes_in_registers(const FusedMoeProblem& p) noexcept {
    const bool grouped = p.route->top_groups < p.route->num_groups;
    return routes_in_registers(p.num_experts, grouped ? p.route->num_groups : 1);
}

DecodeArgs problem_args(const FusedMoeState& state) {
    const FusedMoeProblem& p = state.problem;
    DecodeArgs a;
    if (p.route) a.route = route_of(p);
    a.weight_input = p.routing_weight == RoutingWeight::input;
    a.num_experts = p.num_experts;
    a.local_experts = state.local_experts;
    a.top_k = p.top_k;
    a.by_top_k = Divisor(p.top_k);
    a.grid = Divisor(state.cuda.grid);
    a.gate_up = matrix_of(state.gate_up);
    a.down = matrix_of(state.down);
    a.activation = p.activation;
    a.out_dtype = p.out_dtype;
    a.live_rows_only = p.batched_experts;
    a.intermediate_stride = (p.intermediate + 7) / 8 * 8;  // rows begin at 16 bytes
    return a;
}

void add_call(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, DecodeArgs& to) {
    to.tokens = args.tokens;
    to.num_tokens = args.num_tokens.present ? args.num_tokens.as<std::int32_t>() : nullptr;
    to.x = args.x.data;
    to.x_stride = args.x.stride(0);
    to.x_vectors = vector_rows(args.x);
    to.ids = rows_of(args.ids);
    if (state.problem.route) add_scores(args, to.route);
    if (state.problem.routing_weight != RoutingWeight::none) to.weights = rows_of(args.weights);
    to.expert_map = args.expert_map.present ? args.expert_map.as<std::int32_t>() : nullptr;
    to.first_expert = args.first_expert;
    add_matrix(args.gate_up, args.gate_up_bias, to.gate_up);
    add_matrix(args.down, args.down_bias, to.down);
    to.shared_output = rows_of(args.shared_output);
    to.out = args.out.data;
    to.out_stride = args.out.stride(0);
    to.accumulate = args.accumulate_into_out;
    to.intermediate = state.cuda.intermediate.in(workspace);
    to.partials = state.cuda.partials.in(workspace);
}

}  // namespace tokamak::moe::cuda
