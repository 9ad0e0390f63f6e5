// SPDX-License-Identifier: Apache-2.0
// The last GEMM of an operator: each route's row times its expert's matrix, then the weighted sum over a token's
// routes.
#pragma once

#include "moe/cpu/expert_gemm.h"

namespace tokamak::moe::cpu {

/// What is done with the products. Absent tensors are left out.
struct Combine {
    const Tensor& bias;     ///< [local experts, cols of out]
    const Tensor& weights;  ///< routing weights
    const Tensor& added;    ///< [tokens, cols of out]
    const Tensor& out;
    bool accumulate = false;      ///< add what `out` holds
    bool live_rows_only = false;  ///< tokens none of whose experts is here keep what `out` holds
};

/// One chunk of a call.
struct Chunk {
    const Scratch& scratch;
    const Workspace& workspace;
    const ExpertGroups& groups;
    std::int64_t first_token = 0;
    std::int64_t tokens = 0;
    std::int64_t top_k = 0;
};

/// out[m] = sum over j ascending of weight * (x row * matrix + bias), then + added, then + what out held; rounded once.
template <class Acc>
void project_and_combine(const Chunk& chunk, const Rows<Acc>& x, const ExpertMatrices& matrices,
                         const Combine& combine);

/// Rough cost of multiplying a block of kBlockRows weight rows with the rows of a chunk, for parallel_for.
std::int64_t block_cost(const Chunk& chunk, const PackedLayout& layout) noexcept;

}  // namespace tokamak::moe::cpu
