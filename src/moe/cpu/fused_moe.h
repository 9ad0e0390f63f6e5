// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/fused_moe_state.h"

namespace tokamak::moe::cpu {

/// Computes the first `tokens` rows. Arguments and workspace are checked. Acc: float, or double for the oracle.
template <class Acc>
void fused_moe(const FusedMoeState& state, const FusedMoeArgs& args, std::int64_t tokens, const Workspace& workspace);

}  // namespace tokamak::moe::cpu
