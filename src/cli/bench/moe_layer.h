// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "cli/bench/report.h"
#include "tokamak/checkpoint.h"
#include "tokamak/moe.h"

namespace tokamak::cli::bench {

/// One MoE layer as a checkpoint holds it, and what the checkpoint does not say.
struct MoeLayer {
    std::string name;
    PackedExperts experts;
    moe::RouteProblem routing;  ///< method, top_k, groups, scaling; sizes are filled in
    moe::Activation activation;
};

/// Routes random tokens by the layer's own router and runs its experts.
void run_moe_layer(Report& report, const MoeLayer& layer);

}  // namespace tokamak::cli::bench
