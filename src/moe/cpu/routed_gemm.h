// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/routed_gemm_state.h"

namespace tokamak::moe::cpu {

/// Computes the first `tokens` rows. Arguments and workspace are checked. Acc: float, or double for the oracle.
template <class Acc>
void routed_gemm(const RoutedGemmState& state, const RoutedGemmArgs& args, std::int64_t tokens,
                 const Workspace& workspace);

}  // namespace tokamak::moe::cpu
