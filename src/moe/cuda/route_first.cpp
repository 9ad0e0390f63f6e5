// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/route_first.h"

#include "cuda/check.h"
#include "moe/cuda/driver_launch.h"
#include "moe/cuda/expert_rows.h"
#include "moe/cuda/route_rows.h"
#include "moe/fused_moe_state.h"

namespace tokamak::moe::cuda {

using tokamak::cuda::check;

RouteKernels plan_route_first() {
    RouteKernels kernels;
    check(load_route_rows(kernels), "loading the routing kernels");
    return {launchable(kernels.in_registers), launchable(kernels.in_memory)};
}

void plan_name_experts() { check(prepare_name_experts(), "loading the kernel that names experts"); }

void route_first(const FusedMoeState& state, const Workspace& workspace, Stream stream, int row_warps,
                 DecodeArgs& kernel_args) {
    RouteRowsArgs route;
    route.route = kernel_args.route;
    route.tokens = kernel_args.tokens;
    route.num_tokens = kernel_args.num_tokens;
    route.experts = kernel_args.num_experts;
    route.top_k = kernel_args.top_k;
    route.ids = state.cuda.routed_ids.in(workspace);
    route.weights = state.cuda.routed_weights.in(workspace);
    route.room = score_room(route.experts);
    const RouteRowsShape shape = route_rows_shape(route, state.options.max_sms, row_warps);
    void* parameters[] = {&route};
    launch({.kernel = shape.in_registers ? state.cuda.route_rows.in_registers : state.cuda.route_rows.in_memory,
            .ctas = shape.ctas,
            .threads = shape.threads,
            .shared_bytes = shape.shared_bytes,
            .cooperative = false},
           state.device.index, parameters, stream);
    kernel_args.route = {};
    kernel_args.routed_before = true;
    kernel_args.ids = {route.ids, route.top_k, DType::i32};
    if (state.problem.routing_weight != RoutingWeight::none)
        kernel_args.weights = {route.weights, route.top_k, DType::f32};
}

void name_experts_first(const FusedMoeState& state, const Tensor& expert_rows, const Workspace& workspace,
                        Stream stream, DecodeArgs& kernel_args) {
    const ExpertRowsArgs args{.expert_rows = expert_rows.as<std::int32_t>(),
                              .ids = state.cuda.routed_ids.in(workspace),
                              .experts = state.local_experts,
                              .rows = kernel_args.tokens / state.local_experts};
    check(launch_name_experts(args, state.options.max_sms, stream.handle), "launch that names experts");
    kernel_args.ids = {args.ids, 1, DType::i32};
}

}  // namespace tokamak::moe::cuda
