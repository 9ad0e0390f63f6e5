// SPDX-License-Identifier: Apache-2.0
// What make_plan of the two multiplying operators does for the CPU.
#pragma once

#include "core/plan_state.h"
#include "moe/cpu/scratch.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cpu {

/// Books the workspace; the table is filled. `shape` holds everything but the accumulator's size and the threads.
Scratch lay_out(detail::PlanState& state, ScratchShape shape);

}  // namespace tokamak::moe::cpu
