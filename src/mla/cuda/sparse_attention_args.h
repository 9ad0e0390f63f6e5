// SPDX-License-Identifier: Apache-2.0
// From the arguments of a call to the parameters of a launch.
#pragma once

#include "mla/cuda/sparse_decode/params.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla::cuda {

/// Everything but what depends on the configuration: head_groups, splits and the division of shared memory.
sparse_decode::Params decode_params(const SparseAttentionProblem& problem, const SparseAttentionArgs& args);

}  // namespace tokamak::mla::cuda
