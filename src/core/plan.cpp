// SPDX-License-Identifier: Apache-2.0
#include "tokamak/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/plan_state.h"

namespace tokamak {

std::size_t detail::PlanState::row_index(std::int64_t tokens) const noexcept {
    const auto row = std::lower_bound(table.begin(), table.end(), tokens,
                                      [](const PlanRow& r, std::int64_t count) { return r.tokens < count; });
    return static_cast<std::size_t>(row - table.begin());
}

const std::string& Plan::op() const noexcept { return state_->op; }
Device Plan::device() const noexcept { return state_->device; }
std::int64_t Plan::max_tokens() const noexcept { return state_->max_tokens; }
const PlanOptions& Plan::options() const noexcept { return state_->options; }
WorkspaceSize Plan::workspace() const noexcept { return state_->layout.size(); }
const WorkspaceLayout& Plan::layout() const noexcept { return state_->layout; }
std::span<const PlanRow> Plan::table() const noexcept { return state_->table; }

const PlanRow& Plan::row_for(std::int64_t tokens) const {
    check::tokens(state_->op.c_str(), tokens, state_->max_tokens);
    return state_->table[state_->row_index(tokens)];
}

std::string explain(const PlanRow& row) {
    std::string text = row.source;
    if (row.bucket > 0) text += fmt::format(" at {}", row.bucket);
    if (row.extrapolated) text += ", extrapolated";
    if (!row.runner_up.empty()) text += fmt::format("; next {} {:+.1f}%", row.runner_up, row.margin * 100.0);
    return text;
}

std::string Plan::explain() const {
    std::string text = fmt::format("{} on {}, up to {} tokens\n", op(), to_string(device()), max_tokens());
    for (const PlanRow& row : table())
        text += fmt::format("  tokens <= {:<6} {} ({})\n", row.tokens, row.variant, tokamak::explain(row));
    text += fmt::format("workspace {} bytes, alignment {}\n", workspace().bytes, workspace().alignment);
    for (const auto& entry : layout().entries())
        text += fmt::format("  {:<24} offset {:>12} bytes {:>12}\n", entry.name, entry.offset, entry.bytes);
    return text;
}

WorkspaceSize max_of(std::span<const WorkspaceSize> sizes) noexcept {
    WorkspaceSize largest;
    for (const WorkspaceSize& size : sizes) {
        largest.bytes = std::max(largest.bytes, size.bytes);
        largest.alignment = std::max(largest.alignment, size.alignment);
    }
    return largest;
}

}  // namespace tokamak
