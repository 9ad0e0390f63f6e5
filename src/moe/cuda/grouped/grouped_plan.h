// SPDX-License-Identifier: Apache-2.0
// Host side of the grouped kernel that needs no device: which instances, how their shared memory is laid out. Pure
// functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moe/cuda/grouped/grouped_args.h"

namespace tokamak::moe::cuda {

/// A way to run a problem.
struct GroupedVariant {
    GroupedInstance instance;
    int stages = 0;
    GroupedShared shared;
};

/// The instances for a weight format and, with fp8_block, a form of the activations; none if it has no kernel.
std::vector<GroupedInstance> grouped_instances(const WeightSpec& spec, bool quantized);

/// The instances for so many rows that the grid makes one list of routes; launched once for each pass.
std::vector<GroupedInstance> grid_list_instances(const WeightSpec& spec, bool quantized);

/// Tokens of a pass where the workspace is not limited.
std::int64_t most_pass_tokens(const FusedMoeProblem& problem, bool grid_lists = false) noexcept;

/// The variants whose shared memory fits into `shared_limit` bytes, with lists for passes of `pass_tokens`.
std::vector<GroupedVariant> grouped_variants(const FusedMoeProblem& problem, std::int64_t pass_tokens,
                                             std::size_t shared_limit);
/// The same of the instances with one list of routes.
std::vector<GroupedVariant> grid_list_variants(const FusedMoeProblem& problem, std::int64_t pass_tokens,
                                               std::size_t shared_limit);

}  // namespace tokamak::moe::cuda
