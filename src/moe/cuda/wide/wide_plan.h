// SPDX-License-Identifier: Apache-2.0
// Host side of the wide kernel that needs no device: which instances, how their shared memory is laid out. Pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moe/cuda/wide/wide_args.h"

namespace tokamak::moe::cuda {

/// A way to run a problem.
struct WideVariant {
    WideInstance instance;
    int stages = 0;
    WideShared shared;
};

/// The instances for a weight format and, with fp8_block, a form of the activations; none if it has no kernel.
std::vector<WideInstance> wide_instances(const WeightSpec& spec, bool quantized);

/// CTAs of a launch: pairs, or one.
constexpr int wide_grid(int grid) noexcept { return grid > 1 ? grid / 2 * 2 : 1; }

/// Tokens of a launch of `grid` CTAs where the workspace is not limited.
std::int64_t most_wide_tokens(const FusedMoeProblem& problem, int grid) noexcept;

/// The variants whose shared memory fits into `shared_limit` bytes.
std::vector<WideVariant> wide_variants(const FusedMoeProblem& problem, std::size_t shared_limit);

}  // namespace tokamak::moe::cuda
