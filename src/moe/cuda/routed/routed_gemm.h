// SPDX-License-Identifier: Apache-2.0
// The seam between routed_gemm and its CUDA kernels. Problems and arguments are checked already.
#pragma once

#include "moe/cuda/routed/routed_args.h"
#include "tokamak/moe/routed_gemm.h"
#include "tokamak/workspace.h"

namespace tokamak::moe {

struct RoutedGemmState;

namespace cuda {

/// What a routed_gemm plan for a CUDA device holds.
struct RoutedGemmCuda {
    const void* kernel = nullptr;
    int grid = 0;
    int pass_tokens = 0;
    routed::SharedLayout shared;
    Slice<float> partials;  ///< [routes of a pass, rows]
};

/// Throws `unsupported` with the reason unless the kernels run the problem.
void require(const RoutedGemmProblem& problem, Device device);
/// Fills table, workspace layout and `cuda` of a state whose problem and weight layout are set.
void plan_routed_gemm(RoutedGemmState& state, Device device, const PlanOptions& options);
void run_routed_gemm(const RoutedGemmState& state, const RoutedGemmArgs& args, const Workspace& workspace,
                     Stream stream);

}  // namespace cuda
}  // namespace tokamak::moe
