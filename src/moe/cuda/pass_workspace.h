// SPDX-License-Identifier: Apache-2.0
// The workspace of fused_moe on CUDA: what the variants in a plan's table need, beside one another where a call uses
// both, in the same place where it does not.
#pragma once

#include <cstdint>

#include "moe/cuda/fused_moe.h"
#include "tokamak/plan.h"

namespace tokamak::moe::cuda {

/// Tokens of a pass of the grouped kernel: as many as fit into `max_workspace_bytes`, 8 at least. `cuda.grid` is set.
std::int64_t pass_tokens(const FusedMoeProblem& problem, const PlanOptions& options, const FusedMoeCuda& cuda,
                         bool grid_lists);
/// The same of the wide kernel's.
std::int64_t wide_tokens(const FusedMoeProblem& problem, const PlanOptions& options, const FusedMoeCuda& cuda);
/// Workspace of a plan that has the kernel for one token besides the decode kernel.
std::size_t least_bytes_with_single(const FusedMoeProblem& problem, int segments, int grid);
/// Fills `layout` and the slices of a state whose variants are frozen.
void lay_out_workspace(FusedMoeState& state);

}  // namespace tokamak::moe::cuda
