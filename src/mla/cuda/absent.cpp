// SPDX-License-Identifier: Apache-2.0
// Operators that have no CUDA kernels: refused with the reason. No plan exists, so `run` is never reached.
#include "core/throw.h"
#include "mla/cuda/backend.h"

namespace tokamak::mla::cuda {
namespace {

Support absent(const char* op) {
    return Support::no(std::string(op) + (built_with_cuda()
                                              ? ": no CUDA kernels for this operator yet, only the CPU runs it"
                                              : ": Tokamak was built without CUDA"));
}

template <class Problem>
[[noreturn]] void refuse(const Problem& problem, Device device) {
    throw Error(ErrorCode::unsupported, cuda::supports(problem, device).reason);
}

template <class AnyPlan>
[[noreturn]] void unreachable(const AnyPlan& plan) {
    fail(ErrorCode::internal, "{}: a CUDA plan without kernels", plan.op());
}

}  // namespace

Support supports(const SparseAttentionProblem&, Device) { return absent("sparse_attention"); }
Support supports(const MergeStateProblem&, Device) { return absent("merge_state"); }
Support supports(const PagedGatherProblem&, Device) { return absent("paged_gather"); }
Support supports(const WriteKvProblem&, Device) { return absent("write_kv"); }
Support supports(const IndexerProblem&, Device) { return absent("indexer"); }

SparseAttentionPlan make_plan(const SparseAttentionProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
MergeStatePlan make_plan(const MergeStateProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
PagedGatherPlan make_plan(const PagedGatherProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
WriteKvPlan make_plan(const WriteKvProblem& p, Device d, const PlanOptions&) { refuse(p, d); }
IndexerPlan make_plan(const IndexerProblem& p, Device d, const PlanOptions&) { refuse(p, d); }

void run(const SparseAttentionPlan& p, const SparseAttentionArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const MergeStatePlan& p, const MergeStateArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const PagedGatherPlan& p, const PagedGatherArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const WriteKvPlan& p, const WriteKvArgs&, const Workspace&, Stream) { unreachable(p); }
void run(const IndexerPlan& p, const IndexerArgs&, const Workspace&, Stream) { unreachable(p); }

}  // namespace tokamak::mla::cuda
