// SPDX-License-Identifier: Apache-2.0
// The operators that have CUDA kernels, in a build without CUDA.
#include "mla/cuda/absent.h"

namespace tokamak::mla::cuda {

Support supports(const SparseAttentionProblem&, Device) { return absent("sparse_attention"); }
Support supports(const MergeStateProblem&, Device) { return absent("merge_state"); }
Support supports(const PagedGatherProblem&, Device) { return absent("paged_gather"); }
Support supports(const WriteKvProblem&, Device) { return absent("write_kv"); }

SparseAttentionPlan make_plan(const SparseAttentionProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
MergeStatePlan make_plan(const MergeStateProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
PagedGatherPlan make_plan(const PagedGatherProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
WriteKvPlan make_plan(const WriteKvProblem& p, Device d, const PlanOptions&) { refuse(p, d); }

void run(const SparseAttentionPlan& p, const SparseAttentionArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const MergeStatePlan& p, const MergeStateArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const PagedGatherPlan& p, const PagedGatherArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const WriteKvPlan& p, const WriteKvArgs&, const Workspace&, Stream) { unreachable(p); }

}  // namespace tokamak::mla::cuda
