// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::moe {

/// out[m] = routed_scaling_factor * sum_k w[m,k] * y[m,k,:], f32 sum in order of k, one rounding. top_k 0 gives zeros.
struct SumReduceProblem {
    std::int64_t max_tokens = 0;
    int top_k = 0;
    std::int64_t hidden = 0;
    float routed_scaling_factor = 1.0F;
    DType dtype = DType::bf16;  ///< of y and out: bf16, f16 or f32
};

struct SumReduceArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    Tensor y;           ///< [tokens, top_k, hidden], last dimension contiguous
    Tensor weights;     ///< optional [tokens, top_k] f32 or bf16
    Tensor out;         ///< [>= tokens, hidden]
};

using SumReducePlan = PlanOf<SumReduceProblem>;

// The contract of the calls: end of plan.h.
Support supports(const SumReduceProblem& problem, Device device);
SumReducePlan make_plan(const SumReduceProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture.
void run(const SumReducePlan& plan, const SumReduceArgs& args, const Workspace& workspace, Stream stream = {});

OwnedTensor sum_reduce(const SumReduceProblem& problem, SumReduceArgs args, Device device = {},
                       const Workspace& workspace = {}, Stream stream = {});
OwnedTensor sum_reduce(const SumReducePlan& plan, SumReduceArgs args, const Workspace& workspace = {},
                       Stream stream = {});

}  // namespace tokamak::moe
