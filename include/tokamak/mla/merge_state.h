// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::mla {

/// Merges two partial attentions of the same queries: m = max(la, lb), out = (a e^(la-m) + b e^(lb-m)) / (e^(la-m) +
/// e^(lb-m)), lse = m + ln(sum). Natural log. An empty side (lse -inf) contributes nothing, whatever its out holds; two
/// empty sides give out 0 and lse -inf. A side of lse +inf outweighs every finite one; two such sides share equally.
struct MergeStateProblem {
    std::int64_t max_tokens = 0;
    int heads = 0;
    std::int64_t dim = 0;
    DType dtype = DType::bf16;  ///< of out_a, out_b, out: bf16, f16, f32
};

struct MergeStateArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    Tensor out_a;       ///< [tokens, heads, dim]
    Tensor lse_a;       ///< f32 [tokens, heads]
    Tensor out_b;
    Tensor lse_b;
    Tensor out;  ///< [>= tokens, heads, dim]; may be out_a or out_b
    Tensor lse;  ///< f32 [>= tokens, heads]; may be lse_a or lse_b
};

using MergeStatePlan = PlanOf<MergeStateProblem>;

// The contract of the calls: end of plan.h.
Support supports(const MergeStateProblem& problem, Device device);
MergeStatePlan make_plan(const MergeStateProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture.
void run(const MergeStatePlan& plan, const MergeStateArgs& args, const Workspace& workspace, Stream stream = {});

struct MergeStateResult {
    OwnedTensor out;
    OwnedTensor lse;
};
MergeStateResult merge_state(const MergeStateProblem& problem, MergeStateArgs args, Device device = {},
                             const Workspace& workspace = {}, Stream stream = {});
MergeStateResult merge_state(const MergeStatePlan& plan, MergeStateArgs args, const Workspace& workspace = {},
                             Stream stream = {});

}  // namespace tokamak::mla
