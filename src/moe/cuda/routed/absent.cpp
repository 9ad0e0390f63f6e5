// SPDX-License-Identifier: Apache-2.0
// For builds without CUDA: every problem is refused, so the other functions are never reached.
#include "moe/cuda/routed/routed_gemm.h"
#include "moe/cuda/small/small_operators.h"

namespace tokamak::moe::cuda {

void require(const RoutedGemmProblem&, Device device) { require_small("routed_gemm", device); }
void plan_routed_gemm(RoutedGemmState&, Device, const PlanOptions&) {}
void run_routed_gemm(const RoutedGemmState&, const RoutedGemmArgs&, const Workspace&, Stream) {}

}  // namespace tokamak::moe::cuda
