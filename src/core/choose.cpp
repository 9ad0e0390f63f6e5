// SPDX-License-Identifier: Apache-2.0
#include "core/choose.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

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

/// What the override text says.
struct Override {
    std::optional<std::string> variant;
    std::vector<std::pair<std::string, std::int64_t>> fields;
};

void add_field(Override& to, const ChooseRequest& request, const std::string& key, const nlohmann::json& value) {
    const std::vector<std::string>& keys = request.fields.keys;
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(ErrorCode::parse, "{}: unknown key \"{}\" with value {}; known: \"variant\"{}{}", request.override_name,
             key, value.dump(), keys.empty() ? "" : ", ", list(keys));
    if (!value.is_number_integer())
        fail(ErrorCode::parse, "{}: \"{}\" is {}, expected an integer", request.override_name, key, value.dump());
    to.fields.emplace_back(key, value.get<std::int64_t>());
}

Override parse_override(const ChooseRequest& request) {
    Override result;
    if (!request.override_text) return result;
    const auto document = nlohmann::json::parse(*request.override_text, nullptr, /*allow_exceptions=*/false);
    if (document.is_discarded())
        fail(ErrorCode::parse, "{} is not valid JSON: '{}'", request.override_name, *request.override_text);
    if (!document.is_object())
        fail(ErrorCode::parse, "{} must be a JSON object, got {}", request.override_name, document.dump());
    for (const auto& [key, value] : document.items()) {
        if (key != "variant") {
            add_field(result, request, key, value);
            continue;
        }
        if (!value.is_string() || !is_legal(request, value.get<std::string>()))
            fail(ErrorCode::parse, "{}: \"variant\" is {}, expected one of {}", request.override_name, value.dump(),
                 list(request.legal));
        result.variant = value.get<std::string>();
    }
    return result;
}

/// The overridden variant, given what would be taken without the override.
std::string apply(const ChooseRequest& request, const Override& override, const std::string& selected) {
    std::string variant = override.variant.value_or(selected);
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

/// The entry of a store for one token count: its own bucket, or the largest one, flagged as extrapolated.
std::optional<PlanRow> from_store(const ChooseRequest& request, const ConfigStore* store, const char* source,
                                  std::int64_t tokens) {
    const TunedTable* table = store == nullptr ? nullptr : store->find(request.device_name, request.problem_key);
    if (table == nullptr || table->empty()) return std::nullopt;
    auto entry = std::lower_bound(table->begin(), table->end(), tokens,
                                  [](const auto& row, std::int64_t count) { return row.first < count; });
    const bool extrapolated = entry == table->end();
    if (extrapolated) --entry;
    if (!is_legal(request, entry->second)) {
        warn(fmt::format(
            "{}: the {} configuration names the variant {} for {} tokens, which cannot run here; passed over",
            request.op, source, entry->second, entry->first));
        return std::nullopt;
    }
    return PlanRow{tokens, entry->second, source, extrapolated};
}

PlanRow choose_row(const ChooseRequest& request, const Override& override, std::int64_t tokens) {
    if (!request.pinned.empty()) return {tokens, request.pinned, "option", false};
    PlanRow row = {tokens, "", "heuristic", false};
    if (auto tuned = from_store(request, request.tuned, "tuned", tokens))
        row = *tuned;
    else if (auto shipped = from_store(request, request.shipped, "shipped", tokens))
        row = *shipped;
    else
        row.variant = request.heuristic(tokens);
    if (!override.variant && override.fields.empty()) return row;
    return {tokens, apply(request, override, row.variant), "override", false};
}

}  // namespace

std::vector<PlanRow> choose_table(const ChooseRequest& request) {
    if (!request.pinned.empty() && !is_legal(request, request.pinned))
        invalid("{}: variant \"{}\" cannot run this problem here, expected one of {}", request.op, request.pinned,
                list(request.legal));
    const Override overridden = parse_override(request);
    std::vector<std::int64_t> buckets = tune::token_buckets(request.max_tokens);
    if (buckets.empty()) buckets.push_back(0);
    std::vector<PlanRow> rows;
    rows.reserve(buckets.size());
    for (const std::int64_t tokens : buckets) rows.push_back(choose_row(request, overridden, tokens));
    return rows;
}

void choose_into(detail::PlanState& state, const char* op, Device device, std::int64_t max_tokens,
                 const PlanOptions& options, std::string problem_key, std::vector<std::string> legal,
                 std::function<std::string(std::int64_t)> heuristic, const char* override_name, OverrideFields fields) {
    const auto tuned = ConfigStore::user();
    ChooseRequest request{.op = op,
                          .problem_key = std::move(problem_key),
                          .max_tokens = max_tokens,
                          .device_name = device_info(device).name,
                          .legal = std::move(legal),
                          .heuristic = std::move(heuristic),
                          .pinned = options.variant,
                          .override_name = override_name != nullptr ? override_name : "",
                          .override_text = override_name != nullptr ? environment::get(override_name) : std::nullopt,
                          .fields = std::move(fields),
                          .tuned = tuned.get(),
                          .shipped = &ConfigStore::shipped()};
    state.op = op;
    state.device = device;
    state.max_tokens = max_tokens;
    state.options = options;
    state.table = choose_table(request);
    state.variants = std::move(request.legal);
    state.row_variants.clear();
    for (const PlanRow& row : state.table) {
        const auto found = std::find(state.variants.begin(), state.variants.end(), row.variant);
        state.row_variants.push_back(static_cast<std::size_t>(found - state.variants.begin()));
    }
}

void choose_cpu(detail::PlanState& state, const char* op, std::int64_t max_tokens, const PlanOptions& options) {
    choose_into(state, op, Device::cpu(), max_tokens, options, op, {kCpuF32, kCpuF64},
                [](std::int64_t) { return std::string(kCpuF32); });
}

bool is_oracle(const detail::PlanState& state, std::int64_t tokens) noexcept {
    return state.row_variants[state.row_index(tokens)] == 1;
}

}  // namespace tokamak
