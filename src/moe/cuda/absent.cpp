// SPDX-License-Identifier: Apache-2.0
// For builds without CUDA: every problem is refused, so the other functions are never reached.
#include "core/throw.h"
#include "moe/cuda/fused_moe.h"

namespace tokamak::moe::cuda {
namespace {

[[noreturn]] void refuse(Device device) {
    fail(ErrorCode::unsupported, "moe::fused_moe on {}: Tokamak was built without CUDA", to_string(device));
}

}  // namespace

void require(const FusedMoeProblem&, Device device) { refuse(device); }
void plan_fused_moe(FusedMoeState&, const PlanOptions&) { refuse(Device::cuda()); }
void run_fused_moe(const FusedMoeState&, const FusedMoeArgs&, const Workspace&, Stream) { refuse(Device::cuda()); }

}  // namespace tokamak::moe::cuda
