// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/route_first.h"

#include <memory>

#include "moe/cuda/small/small_operators.h"
#include "moe/fused_moe_state.h"

namespace tokamak::moe::cuda {

void plan_route_first(FusedMoeState& state) {
    auto route = std::make_shared<detail::TypedState<RouteProblem>>();
    route->problem = route_problem(state.problem);
    PlanOptions options;
    options.max_sms = state.options.max_sms;
    plan_small(*route, state.device, options);
    state.cuda.route_first = std::move(route);
}

void route_first(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, Stream stream,
                 DecodeArgs& kernel_args) {
    const int top_k = state.problem.top_k;
    RouteArgs route;
    route.tokens = args.tokens;
    route.num_tokens = args.num_tokens;
    route.logits = args.logits;
    route.correction_bias = args.correction_bias;
    route.ids = Tensor(state.cuda.routed_ids.in(workspace), DType::i32, {args.tokens, top_k}, state.device);
    route.weights = Tensor(state.cuda.routed_weights.in(workspace), DType::f32, {args.tokens, top_k}, state.device);
    run_small(*state.cuda.route_first, route, stream);
    kernel_args.route = {};
    kernel_args.ids = {route.ids.data, top_k, DType::i32};
    if (state.problem.routing_weight != RoutingWeight::none)
        kernel_args.weights = {route.weights.data, top_k, DType::f32};
}

}  // namespace tokamak::moe::cuda
