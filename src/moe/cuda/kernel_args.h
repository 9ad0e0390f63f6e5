// SPDX-License-Identifier: Apache-2.0
// What all kernels of fused_moe take, from the arguments of a call.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_args.h"
#include "moe/cuda/fused_moe.h"

namespace tokamak::moe::cuda {

/// Whether a warp can route a token of the problem, which has a `route`, in registers.
bool routes_in_registers(const FusedMoeProblem& problem) noexcept;

/// What the problem alone decides, once for a plan: divisors take the host longer than all the rest.
DecodeArgs problem_args(const FusedMoeState& state);
/// Adds what the call brings.
void add_call(const FusedMoeState& state, const FusedMoeArgs& args, const Workspace& workspace, DecodeArgs& to);

}  // namespace tokamak::moe::cuda
