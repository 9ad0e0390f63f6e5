// SPDX-License-Identifier: Apache-2.0
// Host side of the wide kernel that needs no device: which instances, how their shared memory is laid out. Pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moe/cuda/wide/wide_args.h"
#include "tokamak/plan.h"

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

/// The ring of slots for converted weights of one matrix (WideConversion).
struct WideConversionPlan {
    int units = 0;           ///< of an expert
    std::int64_t tiles = 0;  ///< of 128 columns, of a strip
    std::int64_t slot_bytes = 0;
    std::int64_t slots = 0;
    std::int64_t jobs = 0;  ///< units of all experts
};
/// `experts`: of how many a ring holds all units.
WideConversionPlan wide_conversion(const FusedMoeProblem& problem, bool down, std::int64_t experts);
/// That number: those at work and the next ones; one where the workspace is limited.
std::int64_t wide_slot_experts(const FusedMoeProblem& problem, const PlanOptions& options);

/// CTAs of a launch that convert weights: an even number.
int wide_converters(const FusedMoeProblem& problem, int grid, std::int64_t tokens);

/// The variants whose shared memory fits into `shared_limit` bytes.
std::vector<WideVariant> wide_variants(const FusedMoeProblem& problem, std::size_t shared_limit);

}  // namespace tokamak::moe::cuda
