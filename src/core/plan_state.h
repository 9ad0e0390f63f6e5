// SPDX-License-Identifier: Apache-2.0
// What a plan holds. Operators derive their own state from TypedState and add slices and kernel pointers.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokamak/plan.h"

namespace tokamak::detail {

struct PlanState {
    std::string op;
    Device device;
    std::int64_t max_tokens = 0;
    PlanOptions options;
    std::string problem_key;  ///< of the configuration stores
    std::vector<PlanRow> table;
    std::vector<std::string> variants;                         ///< legal ones
    std::vector<std::pair<std::string, std::string>> refused;  ///< the others, or families of them, with the reason
    std::vector<std::size_t> row_variants;                     ///< index into `variants` for each table row
    std::vector<PlanRow> defaults;                             ///< what the heuristic takes, by token count
    WorkspaceLayout layout;

    PlanState() = default;
    PlanState(const PlanState&) = delete;
    PlanState& operator=(const PlanState&) = delete;
    virtual ~PlanState() = default;

    /// Index of the table row for a call of `tokens` tokens, 0 <= tokens <= max_tokens.
    [[nodiscard]] std::size_t row_index(std::int64_t tokens) const noexcept;
};

template <class Problem>
struct TypedState : PlanState {
    Problem problem;
};

/// Wraps a finished state into the public plan.
template <class Problem, class State>
PlanOf<Problem> to_plan(std::shared_ptr<const State> state) {
    const Problem& problem = state->problem;
    return PlanOf<Problem>(std::move(state), problem);
}

/// The operator's own state behind a public plan.
template <class State>
const State& state_of(const Plan& plan) noexcept {
    return static_cast<const State&>(plan.state());
}

}  // namespace tokamak::detail
