// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/plan_cpu.h"

#include "core/choose.h"
#include "core/throw.h"
#include "moe/cpu/parallel.h"

namespace tokamak::moe::cpu {

void choose(detail::PlanState& state, const char* op, std::int64_t max_tokens, const PlanOptions& options,
            DType out_dtype, const std::string& fields) {
    const char* const variant = out_dtype == DType::f64 ? kCpuF64 : kCpuF32;
    choose_into(state, op, Device::cpu(), max_tokens, options, fields, {kCpuF32, kCpuF64},
                [variant](std::int64_t) { return std::string(variant); });
    if (out_dtype == DType::f64 && !is_oracle(state, max_tokens))
        invalid("{}: `out_dtype` is f64 with variant \"{}\", expected variant \"{}\"", op, options.variant, kCpuF64);
}

Scratch lay_out(detail::PlanState& state, ScratchShape shape) {
    shape.max_tokens = state.max_tokens;
    shape.acc_bytes = is_oracle(state, state.max_tokens) ? sizeof(double) : sizeof(float);
    shape.threads = thread_limit();
    return book_scratch(state.op.c_str(), shape, state.options.max_workspace_bytes, state.layout);
}

}  // namespace tokamak::moe::cpu
