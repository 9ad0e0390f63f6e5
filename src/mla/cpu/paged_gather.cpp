// SPDX-License-Identifier: Apache-2.0
#include "mla/cpu/paged_gather.h"

#include <omp.h>

#include <algorithm>

#include "core/check.h"
#include "mla/cpu/convert.h"
#include "mla/cpu/team.h"
#include "mla/paging.h"

namespace tokamak::mla::cpu {
namespace {

/// Where column `column` of sequence `token` lies in the cache.
struct Position {
    std::int64_t index;
    std::int64_t slot;

    Position(const PagedGatherProblem& problem, const PagedGatherArgs& args, std::int64_t token, std::int64_t column)
        : index(args.positions.as<std::int32_t>()[token * args.positions.stride(0) + column]) {
        BlockTable table;
        if (args.block_table.present)
            table = {args.block_table.as<std::int32_t>() + token * args.block_table.stride(0),
                     args.block_table.size(1)};
        slot = physical_slot(index, problem.page_size, args.cache.rows(), table);
    }
};

}  // namespace

void refuse_bad_positions(const PagedGatherState& state, const PagedGatherArgs& args) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    for (std::int64_t token = 0; token < tokens; ++token) {
        for (std::int64_t column = 0; column < state.problem.top_k; ++column) {
            const Position position(state.problem, args, token, column);
            if (position.index != kPadding && position.slot == kMasked)
                invalid("paged_gather: `positions`[{}, {}] is {}, which names no row of the cache's {} (-1 is padding)",
                        token, column, position.index, args.cache.rows());
        }
    }
}

void paged_gather(const PagedGatherState& state, const PagedGatherArgs& args, const Workspace& workspace) {
    const PagedGatherProblem& problem = state.problem;
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    const std::int64_t top_k = problem.top_k;
    if (tokens * top_k == 0) return;
    [[maybe_unused]] const int team = team_size(state.threads, tokens * top_k, tokens * top_k * problem.dim);
#pragma omp parallel num_threads(team)
    {
        float* const row = state.row(workspace, omp_get_thread_num());
#pragma omp for schedule(static)
        for (std::int64_t item = 0; item < tokens * top_k; ++item) {
            const std::int64_t token = item / top_k;
            const std::int64_t column = item % top_k;
            const std::int64_t slot = Position(problem, args, token, column).slot;
            if (slot == kMasked)
                std::fill_n(row, problem.dim, 0.0F);
            else
                decode_kv_row(args.cache, slot, row);
            store_row(row, problem.dim, args.out, token * args.out.stride(0) + column * args.out.stride(1));
        }
    }
}

}  // namespace tokamak::mla::cpu
