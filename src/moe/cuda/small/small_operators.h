// SPDX-License-Identifier: Apache-2.0
// The seam between route, align and sum_reduce and their CUDA kernels: one variant each, one launch, no workspace.
// Problems and arguments are checked already.
#pragma once

#include "core/plan_state.h"
#include "tokamak/moe/align.h"
#include "tokamak/moe/route.h"
#include "tokamak/moe/sum_reduce.h"

namespace tokamak::moe::cuda {

/// Throws `unsupported` with the reason unless the kernels run on the device.
void require_small(const char* op, Device device);

/// Fills the table of a state whose problem is set, and loads the kernels.
void plan_small(detail::TypedState<RouteProblem>& state, Device device, const PlanOptions& options);
void plan_small(detail::TypedState<AlignProblem>& state, Device device, const PlanOptions& options);
void plan_small(detail::TypedState<SumReduceProblem>& state, Device device, const PlanOptions& options);

void run_small(const detail::TypedState<RouteProblem>& state, const RouteArgs& args, Stream stream);
void run_small(const detail::TypedState<AlignProblem>& state, const AlignArgs& args, Stream stream);
void run_small(const detail::TypedState<SumReduceProblem>& state, const SumReduceArgs& args, Stream stream);

}  // namespace tokamak::moe::cuda
