// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "core/plan_state.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla {

inline constexpr const char* kSparseAttention = "sparse_attention";

/// Throws `invalid_argument` unless every field lies in the documented range.
void validate(const SparseAttentionProblem& problem);
/// Throws `invalid_argument` unless arguments and workspace of a call fit the plan. Allocates only to throw.
void validate(const SparseAttentionPlan& plan, const SparseAttentionArgs& args, const Workspace& workspace);

/// Scratch of the CPU backend, one part per thread. Bytes, because the variant decides between float and double.
struct SparseAttentionScratch {
    Slice<std::byte> queries;     ///< [dim][heads], transposed
    Slice<std::byte> rows;        ///< [row block][dim], decoded
    Slice<std::byte> decoded;     ///< [dim] floats, one row on its way to double
    Slice<std::byte> scores;      ///< [row block][heads], then the probabilities
    Slice<std::byte> sums;        ///< [heads][value_dim], the output before the division
    Slice<std::byte> statistics;  ///< running maximum and sum of each head
};

struct SparseAttentionState : detail::TypedState<SparseAttentionProblem> {
    int threads = 0;
    SparseAttentionScratch scratch;
};

}  // namespace tokamak::mla
