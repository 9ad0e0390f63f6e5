// SPDX-License-Identifier: Apache-2.0
// Variants of fused_moe's kernels that cannot run a problem, and why.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "moe/cuda/legal_variants.h"

namespace tokamak::moe::cuda {

/// The weights and, where they are quantised, the activations.
std::string weights_text(const FusedMoeProblem& problem);

/// Names with reasons, those of a kernel that has no variant for the problem under the kernel's name. `cuda` has its
/// grid and the tokens of its passes. Pure.
std::vector<std::pair<std::string, std::string>> refused_variants(const FusedMoeProblem& problem,
                                                                  const FusedMoeCuda& cuda, const DeviceInfo& info,
                                                                  const LegalVariants& legal);

}  // namespace tokamak::moe::cuda
