// SPDX-License-Identifier: Apache-2.0
// Operators that have no CUDA kernels: refused with the reason. No plan exists, so `run` is never reached.
#include "mla/cuda/absent.h"

namespace tokamak::mla::cuda {
Support supports(const MergeStateProblem&, Device) { return absent("merge_state"); }
Support supports(const PagedGatherProblem&, Device) { return absent("paged_gather"); }
Support supports(const WriteKvProblem&, Device) { return absent("write_kv"); }
Support supports(const IndexerProblem&, Device) { return absent("indexer"); }

MergeStatePlan make_plan(const MergeStateProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
PagedGatherPlan make_plan(const PagedGatherProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
WriteKvPlan make_plan(const WriteKvProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
IndexerPlan make_plan(const IndexerProblem& p, Device d, const PlanOptions&) { refuse(p, d); }

void run(const MergeStatePlan& p, const MergeStateArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const PagedGatherPlan& p, const PagedGatherArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const WriteKvPlan& p, const WriteKvArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const IndexerPlan& p, const IndexerArgs&, const Workspace&, Stream) { unreachable(p); }

}  // namespace tokamak::mla::cuda
