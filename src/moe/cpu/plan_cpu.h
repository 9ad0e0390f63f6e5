// SPDX-License-Identifier: Apache-2.0
// What make_plan of the two multiplying operators does for the CPU.
#pragma once

#include "core/plan_state.h"
#include "moe/cpu/scratch.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cpu {

/// Fills the table of `state`: cpu_f32, or the oracle for an f64 output. Throws if an f64 output meets a pinned
/// cpu_f32. `fields` names the problem in the stores.
void choose(detail::PlanState& state, const char* op, std::int64_t max_tokens, const PlanOptions& options,
            DType out_dtype, const std::string& fields = {});

/// Books the workspace; the table is filled. `shape` holds everything but the accumulator's size and the threads.
Scratch lay_out(detail::PlanState& state, ScratchShape shape);

}  // namespace tokamak::moe::cpu
