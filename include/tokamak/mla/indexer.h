// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::mla {

/// DeepSeek sparse-attention indexer: logits[t, j] = sum_h w[t, h] * relu(q[t, h] . k[j]) in f32, -inf outside the
/// window [start, start + length), and the top_k ids by descending logit, ties to the lower id. A window narrower than
/// top_k fills the rest with ids outside the window, lowest first (what the -inf ties give). NaN logits
/// rank below -inf; zeros of both signs are equal.
struct IndexerProblem {
    std::int64_t max_tokens = 0;
    int heads = 0;
    std::int64_t dim = 0;
    std::int64_t keys = 0;
    int top_k = 0;              ///< 1 to keys
    DType dtype = DType::bf16;  ///< of q and k: bf16, f16 or f32
};

struct IndexerArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    Tensor q;           ///< [tokens, heads, dim]
    Tensor k;           ///< [keys, dim]
    Tensor weights;     ///< f32 [tokens, heads]; negative weights are legal
    Tensor lengths;     ///< optional i32 [tokens]
    Tensor row_starts;  ///< optional i32 [tokens]; needs lengths
    Tensor logits;      ///< optional out f32 [>= tokens, keys]
    Tensor indices;     ///< out i32 [>= tokens, top_k]
};

using IndexerPlan = PlanOf<IndexerProblem>;

// The contract of the calls: end of plan.h.
Support supports(const IndexerProblem& problem, Device device);
IndexerPlan make_plan(const IndexerProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture.
void run(const IndexerPlan& plan, const IndexerArgs& args, const Workspace& workspace, Stream stream = {});

struct IndexerResult {
    OwnedTensor logits;
    OwnedTensor indices;
};
IndexerResult indexer(const IndexerProblem& problem, IndexerArgs args, Device device = {},
                      const Workspace& workspace = {}, Stream stream = {});
IndexerResult indexer(const IndexerPlan& plan, IndexerArgs args, const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::mla
