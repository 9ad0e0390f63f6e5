// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/plan_cpu.h"

#include "core/choose.h"
#include "moe/cpu/parallel.h"

namespace tokamak::moe::cpu {

Scratch lay_out(detail::PlanState& state, ScratchShape shape) {
    shape.max_tokens = state.max_tokens;
    shape.acc_bytes = any_oracle(state) ? sizeof(double) : sizeof(float);
    shape.threads = thread_limit();
    return book_scratch(state.op.c_str(), shape, state.options.max_workspace_bytes, state.layout);
}

}  // namespace tokamak::moe::cpu
