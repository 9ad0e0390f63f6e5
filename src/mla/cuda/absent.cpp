// SPDX-License-Identifier: Apache-2.0
// Operators that have no CUDA kernels: refused with the reason. No plan exists, so `run` is never reached.
#include "mla/cuda/absent.h"

namespace tokamak::mla::cuda {
Support supports(const IndexerProblem&, Device) { return absent("indexer"); }

IndexerPlan make_plan(const IndexerProblem& p, Device d, const PlanOptions&) { refuse(p, d); }

void run(const IndexerPlan& p, const IndexerArgs&, const Workspace&, Stream) { unreachable(p); }

}  // namespace tokamak::mla::cuda
