// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/kernel_args.h"

#include "moe/fused_moe_state.h"

namespace tokamak::moe::cuda {
namespace {

DecodeRows rows_of(const Tensor& tensor) {
    if (!tensor.present) return {};
    return {tensor.data, tensor.stride(0), tensor.dtype};
}

DecodeMatrix matrix_of(const Tensor& packed, const Tensor& bias, const PackedLayout& layout) {
    return {.packed = packed.as<std::uint8_t>(),
            .expert_bytes = packed.stride(0),
            .bias = rows_of(bias),
            .cols = static_cast<int>(layout.cols),
            .padded_cols = static_cast<int>(layout.tiles * layout.tile_cols),
            .row_vectors = Divisor(layout.tiles * layout.tile_cols / 8),
            .strip_bytes = static_cast<std::int64_t>(layout.strip_bytes),
            .strips = static_cast<int>(layout.strips),
            .by_strips = Divisor(layout.strips),
            .tiles = static_cast<int>(layout.tiles)};
}

bool vector_rows(const Tensor& x) {
    return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride(0) * 2 % 16 == 0;
}

}  // namespace

DecodeArgs kernel_args(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace) {
    const FusedMoeProblem& p = state.problem;
    DecodeArgs a;
    a.tokens = args.tokens;
    a.num_tokens = args.num_tokens.present ? args.num_tokens.as<std::int32_t>() : nullptr;
    a.x = args.x.data;
    a.x_stride = args.x.stride(0);
    a.x_vectors = vector_rows(args.x);
    a.ids = rows_of(args.ids);
    if (p.route)
        a.route = {.logits = rows_of(args.logits),
                   .bias = args.correction_bias.present ? args.correction_bias.as<float>() : nullptr,
                   .softmax = p.route->method == RouteMethod::softmax,
                   .renormalize = p.route->renormalize,
                   .weighted = p.routing_weight != RoutingWeight::none,
                   .factor = p.route->routed_scaling_factor,
                   .groups = p.route->num_groups,
                   .top_groups = p.route->top_groups};
    if (p.routing_weight != RoutingWeight::none) a.weights = rows_of(args.weights);
    a.weight_input = p.routing_weight == RoutingWeight::input;
    a.expert_map = args.expert_map.present ? args.expert_map.as<std::int32_t>() : nullptr;
    a.first_expert = args.first_expert;
    a.num_experts = p.num_experts;
    a.local_experts = state.local_experts;
    a.top_k = p.top_k;
    a.by_top_k = Divisor(p.top_k);
    a.grid = Divisor(state.cuda.grid);
    a.gate_up = matrix_of(args.gate_up, args.gate_up_bias, state.gate_up);
    a.down = matrix_of(args.down, args.down_bias, state.down);
    a.activation = p.activation;
    a.shared_output = rows_of(args.shared_output);
    a.out = args.out.data;
    a.out_stride = args.out.stride(0);
    a.out_dtype = p.out_dtype;
    a.accumulate = args.accumulate_into_out;
    a.live_rows_only = p.batched_experts;
    a.intermediate = state.cuda.intermediate.in(workspace);
    a.intermediate_stride = (p.intermediate + 7) / 8 * 8;  // rows begin at 16 bytes
    a.partials = state.cuda.partials.in(workspace);
    return a;
}

}  // namespace tokamak::moe::cuda
