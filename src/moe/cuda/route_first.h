// SPDX-License-Identifier: Apache-2.0
// What stands for ids, made into them by a launch of its own before kernels that take ids.
#pragma once

#include "moe/cuda/fused_moe.h"

namespace tokamak::moe::cuda {

/// Loads the kernels that route_first launches. The device is current.
RouteKernels plan_route_first();
/// Loads the kernel that name_experts_first launches. The device is current.
void plan_name_experts();
/// Warps of a CTA that routes in registers: one fits beside the CTAs of most kernels, which may start meanwhile. Where
/// the kernel behind leaves no registers, its CTAs wait for those that route, so that these should be few.
inline constexpr int kFittingRowWarps = 1;
inline constexpr int kCrowdedRowWarps = 8;
/// Routes the call's logits into the workspace, and lets `kernel_args` take ids and weights from there.
void route_first(const FusedMoeState& state, const Workspace& workspace, Stream stream, int row_warps,
                 DecodeArgs& kernel_args);
/// Names the expert of each live row in the workspace, and lets `kernel_args` take ids from there.
void name_experts_first(const FusedMoeState& state, const Tensor& expert_rows, const Workspace& workspace,
                        Stream stream, DecodeArgs& kernel_args);

}  // namespace tokamak::moe::cuda
