// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "tokamak/device.h"
#include "tokamak/error.h"
#include "tokamak/workspace.h"

namespace tokamak {

/// How the contributions of a token's experts are summed.
enum class Combine : std::uint8_t {
    automatic,      ///< the configuration takes the faster one: so far the deterministic one everywhere
    deterministic,  ///< same plan, call size and inputs: same bits
    atomic,         ///< scatter-add: the wide kernel of fused_moe; others as automatic (its own key in the stores)
};

/// Choices of the user that fix a plan. Defaults let the library choose.
struct PlanOptions {
    std::string variant{};  ///< pins one variant by name; must be legal for the problem
    Combine combine = Combine::automatic;
    std::size_t max_workspace_bytes =
        0;                   ///< 0: no limit. A limit too small is refused naming the smallest workable one
    int max_sms = 0;         ///< 0: all. Leaves the other SMs to communication; sparse MLA: only steers the choice
    bool check_ids = false;  ///< CPU: out-of-range ids are refused instead of masked
};

/// One row of a plan's table: calls of at most `tokens` tokens (and more than the row before) run `variant`.
struct PlanRow {
    std::int64_t tokens = 0;
    std::string variant;
    std::string source;         ///< "option", "override", "tuned", "shipped" or "heuristic"
    bool extrapolated = false;  ///< taken from the nearest tuned bucket, beyond the tuned range
    std::int64_t bucket = 0;    ///< "tuned" and "shipped": the token count it was measured at
    std::string runner_up{};    ///< next best of that measurement; empty if not known
    double margin = 0;          ///< share by which the runner-up was slower; of meaning with a runner_up
};

/// Why a row has its variant: "heuristic", "tuned at 64, extrapolated; next decode_b +3.1%".
std::string explain(const PlanRow& row);

namespace detail {
struct PlanState;
}

/// What is common to the plans of all operators. A plan is an immutable value behind a shared handle: cheap to copy,
/// safe to use from several threads and streams at once, and it owns no stream, event or device memory.
class Plan {
  public:
    /// Name of the operator, e.g. "fused_moe".
    [[nodiscard]] const std::string& op() const noexcept;
    [[nodiscard]] Device device() const noexcept;
    [[nodiscard]] std::int64_t max_tokens() const noexcept;
    [[nodiscard]] const PlanOptions& options() const noexcept;
    /// Exact; does not shrink as `max_tokens` grows.
    [[nodiscard]] WorkspaceSize workspace() const noexcept;
    [[nodiscard]] const WorkspaceLayout& layout() const noexcept;
    /// Ascending in tokens; the last row is `max_tokens`.
    [[nodiscard]] std::span<const PlanRow> table() const noexcept;
    /// The row that a call of `tokens` tokens takes. Throws `invalid_argument` below 0 and above `max_tokens`.
    [[nodiscard]] const PlanRow& row_for(std::int64_t tokens) const;
    /// Table and workspace as text, one line each.
    [[nodiscard]] std::string explain() const;

    /// For the library's own use.
    [[nodiscard]] const detail::PlanState& state() const noexcept { return *state_; }

  protected:
    explicit Plan(std::shared_ptr<const detail::PlanState> state) noexcept : state_(std::move(state)) {}
    std::shared_ptr<const detail::PlanState> state_;
};

/// The plan of one operator; `make_plan(problem, device, options)` makes it.
template <class Problem>
class PlanOf : public Plan {
  public:
    [[nodiscard]] const Problem& problem() const noexcept { return *problem_; }

    /// For the library's own use: `problem` lives inside `state`.
    PlanOf(std::shared_ptr<const detail::PlanState> state, const Problem& problem) noexcept
        : Plan(std::move(state)), problem_(&problem) {}

  private:
    const Problem* problem_;
};

/// Size of one workspace for plans that follow one another in one stream.
template <class... Plans>
requires(sizeof...(Plans) > 0 && (std::is_base_of_v<Plan, Plans> && ...)) WorkspaceSize max_of(const Plans&... plans)
noexcept {
    const WorkspaceSize sizes[] = {plans.workspace()...};
    return max_of(std::span<const WorkspaceSize>(sizes));
}

}  // namespace tokamak

// What the operators have in common. Each has a Problem (what fixes sizes and the choice of a kernel; no pointers),
// Args (the tensors of one call), a plan, and four calls, of which the operators' headers say only what is not said
// here:
//
// - supports(problem, device): whether make_plan would make a plan with default options, and if not, why: the text that
//   it would throw. Throws no Error; allocates and touches no device memory.
// - make_plan(problem, device, options): decides everything, once for all calls of a shape. Before serving, not in
//   a capture: it reads the environment, allocates host memory and loads kernels. It allocates no device memory and
//   does not synchronise. Throws `invalid_argument` for a malformed problem or impossible options, `unsupported` for
//   what has no kernel on the device, `parse` for a bad override in the environment, `device` for an error of the CUDA
//   runtime.
// - run(plan, args, workspace, stream): allocates nothing, synchronises nothing, takes no lock, reads no environment;
//   legal in capture. On the CPU the results are there when it returns, on CUDA in stream order: tensors and workspace
//   have to live until then. Whatever can be checked without reading device data is checked before the first write;
//   throws `invalid_argument` naming the argument, `device` if a launch fails. `workspace` has plan.workspace() bytes
//   at least, of any content; where that is nothing, {} will do.
// - The convenience calls, of the operator's name, with a problem or a plan: run with a plan made where none is given,
//   and outputs and workspace allocated where they are absent. The same bits. Not legal in capture. Throw what
//   make_plan and run throw, and `out_of_memory`.
//
// All are thread-safe, as long as no two runs at a time share an output or a workspace.
