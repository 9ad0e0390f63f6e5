// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/sparse_attention_state.h"

namespace tokamak::mla::cpu {

/// Books the scratch of the plan's table and fixes the number of threads.
void book_scratch(SparseAttentionState& state);

/// The option check_ids: throws `invalid_argument` for an index that is neither a row nor padding.
void refuse_bad_indices(const SparseAttentionState& state, const SparseAttentionArgs& args);

/// Arguments and workspace have been checked.
void sparse_attention(const SparseAttentionState& state, const SparseAttentionArgs& args, const Workspace& workspace);

}  // namespace tokamak::mla::cpu
