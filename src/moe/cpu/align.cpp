// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/align.h"

#include <algorithm>

#include "moe/cpu/expert_lookup.h"

namespace tokamak::moe::cpu {
namespace {

/// Calls body(slot, bin) for each route that has a place in the output, slots ascending.
template <class Body>
void for_each_route(const AlignProblem& problem, const AlignArgs& args, std::int64_t tokens, const Body& body) {
    const std::int64_t global = problem.num_global_experts > 0 ? problem.num_global_experts : problem.num_experts;
    const ExpertLookup lookup(args.expert_map, 0, global, problem.num_experts);
    for (std::int64_t token = 0; token < tokens; ++token)
        for (std::int64_t j = 0; j < problem.top_k; ++j) {
            std::int64_t bin = lookup.local_row(load_id(args.ids, token, j));
            if (bin == ExpertLookup::kElsewhere && problem.non_local == NonLocal::ghost) bin = problem.num_experts;
            if (bin >= 0) body(token * problem.top_k + j, static_cast<std::size_t>(bin));
        }
}

}  // namespace

void align(const AlignProblem& problem, const AlignArgs& args, std::int64_t tokens, std::span<std::int64_t> ends) {
    const AlignSizes sizes = align_sizes(problem, args.tokens);
    const std::int64_t block = problem.block_size;
    auto* const sorted = args.sorted_token_ids.as<std::int32_t>();
    auto* const block_experts = args.expert_ids.as<std::int32_t>();

    std::fill(ends.begin(), ends.end(), 0);
    for_each_route(problem, args, tokens, [&](std::int64_t, std::size_t bin) { ++ends[bin]; });

    // Counts become the position where the next route of an expert goes; a block belongs to one expert.
    std::int64_t position = 0;
    for (std::size_t bin = 0; bin < ends.size(); ++bin) {
        const std::int64_t blocks = (ends[bin] + block - 1) / block;
        const bool ghost = bin == static_cast<std::size_t>(problem.num_experts);
        std::fill_n(block_experts + position / block, blocks, ghost ? -1 : static_cast<std::int32_t>(bin));
        ends[bin] = position;
        position += blocks * block;
    }
    std::fill(block_experts + position / block, block_experts + sizes.max_blocks, 0);
    std::fill_n(sorted, sizes.max_padded, static_cast<std::int32_t>(sizes.pad_id));
    for_each_route(problem, args, tokens,
                   [&](std::int64_t slot, std::size_t bin) { sorted[ends[bin]++] = static_cast<std::int32_t>(slot); });
    *args.num_tokens_post_padded.as<std::int32_t>() = static_cast<std::int32_t>(position);
}

}  // namespace tokamak::moe::cpu
