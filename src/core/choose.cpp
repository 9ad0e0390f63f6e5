// SPDX-License-Identifier: Apache-2.0
#include "core/choose.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/environment.h"
#include "core/log.h"
#include "core/throw.h"
#include "tokamak/tune.h"

namespace tokamak {
namespace {

bool is_legal(const ChooseRequest& request, const std::string& variant) {
    return std::find(request.legal.begin(), request.legal.end(), variant) != request.legal.end();
}

std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

/// A value as a message shows it. Arrays and objects only by their kind: their depth is the user's.
std::string shown(const nlohmann::json& value) {
    return value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
}

/// What the override text says.
struct Override {
    std::optional<std::string> variant;
    std::vector<std::pair<std::string, std::int64_t>> fields;
};

void add_field(Override& to, const ChooseRequest& request, const std::string& key, const nlohmann::json& value) {
    const std::vector<std::string>& keys = request.fields.keys;
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(ErrorCode::parse, "{}: unknown key \"{}\" with value {}; known: \"variant\"{}{}", request.override_name,
             key, shown(value), keys.empty() ? "" : ", ", list(keys));
    const bool too_large = value.is_number_unsigned() &&
                           value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    if (!value.is_number_integer() || too_large)
        fail(ErrorCode::parse, "{}: \"{}\" is {}, expected an integer", request.override_name, key, shown(value));
    to.fields.emplace_back(key, value.get<std::int64_t>());
}

Override parse_override(const ChooseRequest& request) {
    Override result;
    if (!request.override_text) return result;
    const auto document = nlohmann::json::parse(*request.override_text, nullptr, /*allow_exceptions=*/false);
    if (document.is_discarded())
        fail(ErrorCode::parse, "{} is not valid JSON: '{}'", request.override_name, *request.override_text);
    if (!document.is_object())
        fail(ErrorCode::parse, "{} is {}, expected a JSON object", request.override_name, shown(document));
    for (const auto& [key, value] : document.items()) {
        if (key != "variant") {
            add_field(result, request, key, value);
            continue;
        }
        if (!value.is_string() || !is_legal(request, value.get<std::string>()))
            fail(ErrorCode::parse, "{}: \"variant\" is {}, expected one of {}", request.override_name, shown(value),
                 list(request.legal));
        result.variant = value.get<std::string>();
    }
    return result;
}

/// The variant with the fields that the override sets.
std::string apply(const ChooseRequest& request, const Override& override, std::string variant) {
    std::string set;
    for (const auto& [key, value] : override.fields) {
        variant = request.fields.set(variant, key, value);
        set += fmt::format("{}\"{}\" = {}", set.empty() ? "" : ", ", key, value);
    }
    if (!is_legal(request, variant))
        fail(ErrorCode::parse, "{}: {} gives the variant {}, expected one of {}", request.override_name, set, variant,
             list(request.legal));
    return variant;
}

/// The rows that one store has for a problem.
class StoredTable {
  public:
    StoredTable(const ChooseRequest& request, const ConfigStore* store, const char* source)
        : request_(request),
          table_(store == nullptr ? nullptr : store->find(request.device_name, request.problem_key)),
          source_(source) {}

    /// The row of the smallest count not below `tokens`. None if all are below, or if it names a variant that is not
    /// legal: the first row that names such a variant gives a warning.
    std::optional<PlanRow> measured(std::int64_t tokens) {
        if (table_ == nullptr) return std::nullopt;
        const auto entry = std::lower_bound(table_->begin(), table_->end(), tokens,
                                            [](const TunedRow& row, std::int64_t count) { return row.tokens < count; });
        return entry == table_->end() ? std::nullopt : row_of(*entry, tokens, /*extrapolated=*/false);
    }

    /// The last row, for a count beyond it, unless the heuristic changes its mind between the two: a tuning whose time
    /// ran out after one and two tokens says nothing about 4096 (measured: up to three times too slow).
    std::optional<PlanRow> extrapolated(std::int64_t tokens, const std::vector<PlanRow>& defaults) {
        if (table_ == nullptr || table_->empty() || table_->back().tokens >= tokens) return std::nullopt;
        const TunedRow& last = table_->back();
        if (row_at(defaults, last.tokens).variant != row_at(defaults, tokens).variant) return std::nullopt;
        return row_of(last, tokens, /*extrapolated=*/true);
    }

    /// What it has rows for, as far as the plan goes.
    [[nodiscard]] std::set<std::int64_t> counts() const {
        std::set<std::int64_t> counts;
        if (table_ == nullptr) return counts;
        for (const TunedRow& row : *table_)
            if (row.tokens >= 1 && row.tokens <= request_.max_tokens) counts.insert(row.tokens);
        return counts;
    }

  private:
    std::optional<PlanRow> row_of(const TunedRow& entry, std::int64_t tokens, bool extrapolated) {
        if (is_legal(request_, entry.variant)) {
            const double margin = entry.us > 0 ? entry.runner_up_us / entry.us - 1.0 : 0.0;
            return PlanRow{tokens,
                           entry.variant,
                           source_,
                           extrapolated,
                           entry.tokens,
                           entry.runner_up,
                           entry.runner_up.empty() ? 0.0 : margin};
        }
        if (warned_.insert(entry.variant).second)
            warn(
                fmt::format("{}: the {} configuration of \"{}\" names the variant {} for {} tokens, which cannot run "
                            "here; passed over",
                            request_.op, source_, request_.problem_key, entry.variant, entry.tokens));
        return std::nullopt;
    }

    const ChooseRequest& request_;
    const TunedTable* table_;
    const char* source_;
    std::set<std::string> warned_;
};

constexpr std::int64_t kMostAsked = 1024;  ///< tokens up to which the heuristic is asked between the buckets

/// The count after `tokens` at which the heuristic is asked. Waves of thread blocks end anywhere: asked at the buckets
/// alone, sparse MLA takes up to 1.6 times as long as it should between 16 and 32 tokens.
std::int64_t next_asked(std::int64_t tokens) {
    if (tokens < 32) return tokens + 1;
    if (tokens < 256) return tokens + 4;
    return tokens + 64;
}

/// Whether a call that the first row is for may as well take the second, which is for more tokens.
bool says_the_same(const PlanRow& row, const PlanRow& above) {
    return row.variant == above.variant && row.source == above.source && row.bucket == above.bucket &&
           row.extrapolated == above.extrapolated;
}

/// The rows at all `counts`, but only those of `kept` and those that differ from the row above.
std::vector<PlanRow> rows_at(const std::set<std::int64_t>& counts, const std::set<std::int64_t>& kept,
                             const std::function<PlanRow(std::int64_t)>& choose) {
    std::vector<PlanRow> rows;
    for (const std::int64_t tokens : counts) {
        PlanRow row = choose(tokens);
        if (!rows.empty() && kept.count(rows.back().tokens) == 0 && says_the_same(rows.back(), row)) rows.pop_back();
        rows.push_back(std::move(row));
    }
    return rows;
}

std::set<std::int64_t> buckets_of(std::int64_t max_tokens) {
    const std::vector<std::int64_t> buckets = tune::token_buckets(max_tokens);
    if (buckets.empty()) return {0};
    return {buckets.begin(), buckets.end()};
}

}  // namespace

std::vector<PlanRow> heuristic_rows(const ChooseRequest& request) {
    const std::set<std::int64_t> buckets = buckets_of(request.max_tokens);
    std::set<std::int64_t> counts = buckets;
    for (std::int64_t tokens = 1; tokens < std::min(request.max_tokens, kMostAsked); tokens = next_asked(tokens))
        counts.insert(tokens);
    return rows_at(counts, buckets, [&](std::int64_t tokens) -> PlanRow {
        return {tokens, request.heuristic(tokens), "heuristic", false};
    });
}

const PlanRow& row_at(const std::vector<PlanRow>& rows, std::int64_t tokens) {
    const auto row = std::lower_bound(rows.begin(), rows.end(), tokens,
                                      [](const PlanRow& r, std::int64_t count) { return r.tokens < count; });
    return row == rows.end() ? rows.back() : *row;
}

std::vector<std::int64_t> with_changes(const std::vector<std::int64_t>& counts, const std::vector<PlanRow>& defaults) {
    std::vector<std::int64_t> all;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const std::int64_t below = i == 0 ? counts[i] : counts[i - 1];
        for (std::size_t row = 0; row + 1 < defaults.size(); ++row) {
            const std::int64_t tokens = defaults[row].tokens;
            if (tokens > below && tokens < counts[i] && counts[i] <= 2 * below &&
                defaults[row].variant != defaults[row + 1].variant)
                all.push_back(tokens);
        }
        all.push_back(counts[i]);
    }
    return all;
}

std::vector<PlanRow> choose_table(const ChooseRequest& request, const std::vector<PlanRow>& defaults) {
    if (!request.pinned.empty() && !is_legal(request, request.pinned))
        invalid("{}: variant \"{}\" cannot run this problem here, expected one of {}", request.op, request.pinned,
                list(request.legal));
    const Override overridden = parse_override(request);
    StoredTable tuned(request, request.tuned, "tuned");
    StoredTable shipped(request, request.shipped, "shipped");
    const auto select = [&](std::int64_t tokens) -> PlanRow {
        if (auto row = tuned.measured(tokens)) return *row;
        if (auto row = shipped.measured(tokens)) return *row;
        if (auto row = tuned.extrapolated(tokens, defaults)) return *row;
        if (auto row = shipped.extrapolated(tokens, defaults)) return *row;
        return {tokens, row_at(defaults, tokens).variant, "heuristic", false};
    };
    const auto choose_row = [&](std::int64_t tokens) -> PlanRow {
        if (!request.pinned.empty()) return {tokens, request.pinned, "option", false};
        if (!overridden.variant && overridden.fields.empty()) return select(tokens);
        const std::string selected = overridden.variant ? *overridden.variant : select(tokens).variant;
        return {tokens, apply(request, overridden, selected), "override", false};
    };
    std::set<std::int64_t> kept = buckets_of(request.max_tokens);
    kept.merge(tuned.counts());
    kept.merge(shipped.counts());
    std::set<std::int64_t> counts = kept;
    for (const PlanRow& row : defaults) counts.insert(row.tokens);
    return rows_at(counts, kept, choose_row);
}

std::string stored_key(const char* op, const std::string& fields, const PlanOptions& options, int multiprocessors) {
    std::string key = op;
    if (!fields.empty()) key += " " + fields;
    if (options.max_sms > 0 && options.max_sms < multiprocessors) key += fmt::format(" max_sms={}", options.max_sms);
    // Passes are shorter in it, and variants that do not fit are missing.
    if (options.max_workspace_bytes > 0) key += fmt::format(" max_workspace={}", options.max_workspace_bytes);
    if (options.combine == Combine::deterministic) key += " combine=deterministic";
    if (options.combine == Combine::atomic) key += " combine=atomic";
    return key;
}

void choose_into(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
                 const PlanOptions& options, const std::string& fields, std::vector<std::string> legal,
                 std::function<std::string(std::int64_t)> heuristic, const char* override_name,
                 OverrideFields override_fields) {
    check::range(op, "max_sms", options.max_sms, 0, std::numeric_limits<int>::max());
    const auto tuned = ConfigStore::user();
    const DeviceInfo& info = device_info(device);
    ChooseRequest request{.op = op,
                          .problem_key = stored_key(op, fields, options, info.multiprocessors),
                          .max_tokens = max_tokens,
                          .device_name = info.name,
                          .legal = std::move(legal),
                          .heuristic = std::move(heuristic),
                          .pinned = options.variant,
                          .override_name = override_name != nullptr ? override_name : "",
                          .override_text = override_name != nullptr ? environment::get(override_name) : std::nullopt,
                          .fields = std::move(override_fields),
                          .tuned = tuned.get(),
                          .shipped = &ConfigStore::shipped()};
    state.op = op;
    state.device = device;
    state.max_tokens = max_tokens;
    state.options = options;
    state.defaults = heuristic_rows(request);
    state.table = choose_table(request, state.defaults);
    state.problem_key = std::move(request.problem_key);
    state.variants = std::move(request.legal);
    state.row_variants.clear();
    for (const PlanRow& row : state.table) {
        const auto found = std::find(state.variants.begin(), state.variants.end(), row.variant);
        state.row_variants.push_back(static_cast<std::size_t>(found - state.variants.begin()));
    }
}

void choose_cpu(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
                const PlanOptions& options, const std::string& fields, DType out_dtype) {
    const bool exact = out_dtype == DType::f64;
    choose_into(state, op, device, max_tokens, options, fields, {kCpuF32, kCpuF64},
                [exact](std::int64_t) { return std::string(exact ? kCpuF64 : kCpuF32); });
    for (const PlanRow& row : state.table)
        if (exact && row.variant != kCpuF64)
            invalid("{}: `out_dtype` is f64 with variant \"{}\", expected variant \"{}\"", op, row.variant, kCpuF64);
}

bool is_oracle(const detail::PlanState& state, std::int64_t tokens) noexcept {
    return state.row_variants[state.row_index(tokens)] == 1;
}

bool any_oracle(const detail::PlanState& state) noexcept {
    return std::find(state.row_variants.begin(), state.row_variants.end(), std::size_t{1}) != state.row_variants.end();
}

}  // namespace tokamak
