// SPDX-License-Identifier: Apache-2.0
// Which variant runs for which token count: option > override > tuned store > shipped table > heuristic; a table beyond
// its last row counts only where neither has a row and the heuristic's answer is that at its last row. A pure function
// of its arguments, the same for every operator and backend.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/config_store.h"
#include "core/plan_state.h"
#include "tokamak/tensor.h"

namespace tokamak {

/// Fields of a variant that the override may set one by one, beside "variant" itself: a partial override keeps the
/// other fields of what the token count selected.
struct OverrideFields {
    std::vector<std::string> keys;
    /// The variant with the field `key` set to `value`; it need not exist.
    std::function<std::string(const std::string& variant, const std::string& key, std::int64_t value)> set;
};

struct ChooseRequest {
    const char* op = "";
    std::string problem_key;  ///< of the stores, see stored_key
    std::int64_t max_tokens = 0;
    std::string device_name;
    std::vector<std::string> legal;                             ///< variants that can run the problem on this device
    std::function<std::string(std::int64_t tokens)> heuristic;  ///< one of `legal` for each token count
    std::string pinned;                                         ///< PlanOptions::variant
    const char* override_name = "";            ///< environment variable that the override text came from
    std::optional<std::string> override_text;  ///< JSON object; "variant" and the keys of `fields`
    OverrideFields fields;
    const ConfigStore* tuned = nullptr;
    const ConfigStore* shipped = nullptr;
};

/// The key of a problem in the stores: operator, the fields of the problem that matter (`fields`, may be empty), and
/// what the options change for all variants: fewer SMs than the device has, a demanded combine.
std::string stored_key(const char* op, const std::string& fields, const PlanOptions& options, int multiprocessors);

/// What the heuristic takes: a row for each token bucket up to max_tokens (a single row 0 for max_tokens 0), and for
/// each count between them that is the last one before its answer changes. It is asked at every count up to 32, every
/// fourth up to 256, every 64th up to 1024, and at the buckets; other counts take the next one's answer.
std::vector<PlanRow> heuristic_rows(const ChooseRequest& request);

/// The row for a call of so many tokens. `rows` are ascending, at least one; above them the last.
const PlanRow& row_at(const std::vector<PlanRow>& rows, std::int64_t tokens);

/// Ascending counts, and between neighbours of them (no more than a factor of two apart) those up to which the default
/// takes one variant and above another: where a wave of thread blocks is full, all other candidates change too.
std::vector<std::int64_t> with_changes(const std::vector<std::int64_t>& counts, const std::vector<PlanRow>& defaults);

/// One row for each token bucket up to max_tokens and for each count of the stores' tables below it, and what else
/// `defaults`, the heuristic's rows, has between them where no table decides. Store entries that name a variant outside
/// `legal` are passed over with one warning a variant. Throws `invalid_argument` for a pinned variant that is not legal
/// and `parse` for an override that is no JSON object or has an unknown key or illegal value.
std::vector<PlanRow> choose_table(const ChooseRequest& request, const std::vector<PlanRow>& defaults);
inline std::vector<PlanRow> choose_table(const ChooseRequest& request) {
    return choose_table(request, heuristic_rows(request));
}

/// Fills op, device, max_tokens, options, key, table and variant indices of a plan, with the real environment and
/// stores. Throws `invalid_argument` for options that no plan can have, and what choose_table throws. `fields` names
/// the problem in the stores; `override_name` may be null: the operator has no override.
void choose_into(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
                 const PlanOptions& options, const std::string& fields, std::vector<std::string> legal,
                 std::function<std::string(std::int64_t)> heuristic, const char* override_name = nullptr,
                 OverrideFields override_fields = {});

/// The two variants of every CPU operator; the second is the oracle.
inline constexpr const char* kCpuF32 = "cpu_f32";
inline constexpr const char* kCpuF64 = "cpu_f64";

/// choose_into for a CPU operator: cpu_f32, or the oracle for an f64 output, unless pinned otherwise. Throws also
/// `unsupported` for a CPU other than the one, `invalid_argument` where an f64 output meets cpu_f32.
void choose_cpu(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
                const PlanOptions& options, const std::string& fields = {}, DType out_dtype = DType::f32);
/// Whether a call of `tokens` tokens runs the oracle variant of a plan made by choose_cpu.
bool is_oracle(const detail::PlanState& state, std::int64_t tokens) noexcept;
/// Whether a call of any number of tokens does: a tuned store may mix the variants, and scratch is sized for the
/// widest.
bool any_oracle(const detail::PlanState& state) noexcept;

}  // namespace tokamak
