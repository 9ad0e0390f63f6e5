// SPDX-License-Identifier: Apache-2.0
// Host side of the kernel for one token that needs no device. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moe/cuda/single/single_args.h"

namespace tokamak::moe::cuda {

/// A way to run an instance.
struct SingleVariant {
    std::string name;  ///< e.g. "single_s2": rings of 2 slots
    int slots = 0;     ///< of each warp's ring
    int gate_up_segments = 0;
    int down_segments = 0;
    SingleShared shared;
};

/// The instance for a weight format, and for fp8_block for quantised activations or others, if there is one.
std::optional<DecodeInstance> single_instance(const WeightSpec& spec, bool quantized);

/// The variants for a grid of `grid` CTAs whose shared memory fits into `shared_limit` bytes. None for what the kernel
/// does not do: weighted token rows, more than 32 slots.
std::vector<SingleVariant> single_variants(const DecodeInstance& instance, const FusedMoeProblem& problem, int grid,
                                           std::size_t shared_limit);

/// Index of the variant that suits a problem best: where little is in flight, what is asked for in between arrives
/// sooner; long runs of tiles want more.
std::size_t choose_single(const DecodeInstance& instance, const std::vector<SingleVariant>& variants,
                          const FusedMoeProblem& problem, int grid);

/// Floats that CTAs with so many segments publish, and those of the intermediate.
std::size_t published_floats(int segments, int grid) noexcept;
std::size_t activated_floats(const FusedMoeProblem& problem);

}  // namespace tokamak::moe::cuda
