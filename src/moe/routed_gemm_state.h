// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/plan_state.h"
#include "moe/cpu/scratch.h"
#include "moe/cuda/routed/routed_gemm.h"
#include "tokamak/moe/routed_gemm.h"

namespace tokamak::moe {

/// What a routed_gemm plan holds besides its table.
struct RoutedGemmState : detail::TypedState<RoutedGemmProblem> {
    int local_experts = 0;
    PackedLayout matrix;
    cpu::Scratch scratch;       ///< plans for the CPU
    cuda::RoutedGemmCuda cuda;  ///< plans for a CUDA device
};

}  // namespace tokamak::moe
