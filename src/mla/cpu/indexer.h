// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/plan_state.h"
#include "tokamak/mla/indexer.h"

namespace tokamak::mla {

/// One part per thread, but for `order`; bytes where the variant decides between float and double.
struct IndexerScratch {
    Slice<std::uint64_t> order;  ///< [order_slots][keys], one token each: ascending is best first
    Slice<std::byte> queries;    ///< [dim][heads], transposed
    Slice<std::byte> rows;       ///< [row block][dim]
    Slice<std::byte> scores;     ///< [row block][heads]
};

struct IndexerState : detail::TypedState<IndexerProblem> {
    int threads = 0;
    std::int64_t order_slots = 0;  ///< tokens that are worked on at a time
    IndexerScratch scratch;
};

namespace cpu {

/// Books the scratch of the plan's table and fixes the number of threads.
void book_scratch(IndexerState& state);

/// Arguments and workspace have been checked.
void indexer(const IndexerState& state, const IndexerArgs& args, const Workspace& workspace);

}  // namespace cpu
}  // namespace tokamak::mla
