// SPDX-License-Identifier: Apache-2.0
// sparse_attention in a build without CUDA.
#include "mla/cuda/absent.h"

namespace tokamak::mla::cuda {

Support supports(const SparseAttentionProblem&, Device) { return absent("sparse_attention"); }
SparseAttentionPlan make_plan(const SparseAttentionProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
void run(const SparseAttentionPlan& p, const SparseAttentionArgs&, const Workspace&, Stream) { unreachable(p); }

}  // namespace tokamak::mla::cuda
