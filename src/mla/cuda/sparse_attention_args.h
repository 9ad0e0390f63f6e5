// SPDX-License-Identifier: Apache-2.0
// From the arguments of a call to the parameters of a launch.
#pragma once

#include "mla/cuda/sparse_decode/params.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla::cuda {

/// Everything but what depends on the configuration: head_groups, splits and the division of shared memory.
sparse_decode::Params decode_params(const SparseAttentionProblem& problem, const SparseAttentionArgs& args);

/// The splits, and the numbers by which the kernels divide by them.
void set_splits(sparse_decode::Params& params, int splits);

/// Behind it for the paired form, whose splits share the output out by half as large parts.
void set_paired_parts(sparse_decode::Params& params);

}  // namespace tokamak::mla::cuda
