// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/plan_state.h"
#include "mla/call.h"

namespace tokamak::mla {

/// Plan of an operator whose CPU threads each need one row of floats.
template <class Problem>
struct RowState : detail::TypedState<Problem> {
    int threads = 0;
    Slice<float> rows;  ///< [threads][row_stride]
    std::int64_t row_stride = 0;

    [[nodiscard]] float* row(const Workspace& workspace, int thread) const noexcept {
        return rows.in(workspace) + static_cast<std::int64_t>(thread) * row_stride;
    }
};

template <class Problem>
void book_rows(RowState<Problem>& state, std::int64_t items) {
    constexpr std::int64_t line = 16;  // floats: threads share no cache line
    state.row_stride = (state.problem.dim + line - 1) / line * line;
    state.threads = book_threads(state, items, [&](WorkspaceLayout& layout, std::size_t threads) {
        state.rows = layout.add<float>("rows", threads * static_cast<std::size_t>(state.row_stride));
    });
}

}  // namespace tokamak::mla
