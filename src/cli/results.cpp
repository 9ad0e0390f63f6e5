// SPDX-License-Identifier: Apache-2.0
#include "cli/results.h"

#include <cmath>

#include "core/build_info.h"

namespace tokamak::cli {
namespace {

/// JSON has no NaN and no infinity: a failed comparison becomes null.
nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }

template <class T>
nlohmann::json optional_json(const std::optional<T>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
}

void add_decode(nlohmann::json& json, const ResultRow& row) {
    const DecodeFacts& facts = *row.decode;
    json["source"] = facts.source;
    json["device_tokens"] = facts.device_tokens;
    json["floor_us"] = facts.floor_us;
    json["floor_share"] = row.timing.median > 0 ? number(facts.floor_us / row.timing.median) : nlohmann::json();
    json["must_us"] = optional_json(facts.must_us);
    json["aim_us"] = optional_json(facts.aim_us);
    json["best_public_us"] = optional_json(facts.best_public_us);
    json["best_public"] = facts.best_public.empty() ? nlohmann::json() : nlohmann::json(facts.best_public);
    json["launches"] = optional_json(facts.launches);
    json["correct"] = facts.correct;
}

nlohmann::json row_json(const ResultRow& row) {
    nlohmann::json json = {{"op", row.op},
                           {"shape", row.shape},
                           {"format", row.format},
                           {"tokens", row.tokens},
                           {"routing", row.routing},
                           {"mode", row.mode},
                           {"variant", row.variant},
                           {"us_median", row.timing.median},
                           {"us_p10", row.timing.p10},
                           {"us_p90", row.timing.p90},
                           {"samples", row.timing.samples},
                           {"bytes", row.bytes},
                           {"flops", row.flops},
                           {"ceiling_share", optional_json(row.ceiling_share)},
                           {"max_error", number(row.max_error)},
                           {"error_norm", number(row.error_norm)},
                           {"checked_tokens", row.checked_tokens}};
    if (row.decode) add_decode(json, row);
    return json;
}

nlohmann::json host_json(const HostCost& cost) {
    return {{"op", cost.op},
            {"shape", cost.shape},
            {"format", cost.format},
            {"tokens", cost.tokens},
            {"us_median", cost.timing.median},
            {"us_p10", cost.timing.p10},
            {"us_p90", cost.timing.p90},
            {"launches", cost.launches},
            {"must_us", cost.must_us}};
}

}  // namespace

nlohmann::json to_json(const Results& results) {
    nlohmann::json document = {{"tokamak", build_info::version()},
                               {"commit", build_info::commit()},
                               {"device", results.device},
                               {"ceilings", results.ceilings},
                               {"rows", nlohmann::json::array()}};
    for (const ResultRow& row : results.rows) document["rows"].push_back(row_json(row));
    if (results.benchmark.empty()) return document;
    document["benchmark"] = results.benchmark;
    document["cuda_sources"] = build_info::cuda_sources_hash();
    document["read_floors"] = results.read_floors;
    document["refused"] = nlohmann::json::array();
    for (const Refusal& refusal : results.refused)
        document["refused"].push_back(
            {{"op", refusal.op}, {"shape", refusal.shape}, {"format", refusal.format}, {"reason", refusal.reason}});
    document["host"] = nlohmann::json::array();
    for (const HostCost& cost : results.host) document["host"].push_back(host_json(cost));
    return document;
}

}  // namespace tokamak::cli
