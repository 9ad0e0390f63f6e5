// SPDX-License-Identifier: Apache-2.0
// For builds without CUDA: every problem is refused, so the other functions are never reached.
#include "core/throw.h"
#include "moe/cuda/small/small_operators.h"

namespace tokamak::moe::cuda {

void require_small(const char* op, Device device) {
    fail(ErrorCode::unsupported, "moe::{} on {}: Tokamak was built without CUDA", op, to_string(device));
}

void plan_small(detail::TypedState<RouteProblem>&, Device, const PlanOptions&) {}
void plan_small(detail::TypedState<AlignProblem>&, Device, const PlanOptions&) {}
void plan_small(detail::TypedState<SumReduceProblem>&, Device, const PlanOptions&) {}

void run_small(const detail::TypedState<RouteProblem>&, const RouteArgs&, Stream) {}
void run_small(const detail::TypedState<AlignProblem>&, const AlignArgs&, Stream) {}
void run_small(const detail::TypedState<SumReduceProblem>&, const SumReduceArgs&, Stream) {}

}  // namespace tokamak::moe::cuda
