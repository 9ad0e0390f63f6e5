// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/kv_format.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::mla {

/// Gathers and dequantises selected rows of a paged cache: out[s, j] = row at positions[s, j] of sequence s. A position
/// that is negative, past the table or in a page out of range gives a zero row and loads nothing.
struct PagedGatherProblem {
    std::int64_t max_tokens = 0;  ///< sequences (rows of `positions`)
    int top_k = 0;
    KvFormat format = KvFormat::bf16;
    std::int64_t dim = 0;
    std::int64_t page_size = 1;
    bool has_table = true;          ///< without: positions are physical slots
    DType out_dtype = DType::bf16;  ///< bf16, f16 or f32
};

struct PagedGatherArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    KvCache cache;
    Tensor positions;    ///< i32 [tokens, top_k]
    Tensor block_table;  ///< i32 [tokens, pages per sequence]
    Tensor out;          ///< [>= tokens, top_k, dim]
};

using PagedGatherPlan = PlanOf<PagedGatherProblem>;

// The contract of the calls: end of plan.h.
Support supports(const PagedGatherProblem& problem, Device device);
PagedGatherPlan make_plan(const PagedGatherProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture.
void run(const PagedGatherPlan& plan, const PagedGatherArgs& args, const Workspace& workspace, Stream stream = {});

OwnedTensor paged_gather(const PagedGatherProblem& problem, PagedGatherArgs args, Device device = {},
                         const Workspace& workspace = {}, Stream stream = {});
OwnedTensor paged_gather(const PagedGatherPlan& plan, PagedGatherArgs args, const Workspace& workspace = {},
                         Stream stream = {});

}  // namespace tokamak::mla
