// SPDX-License-Identifier: Apache-2.0
#include "cli/tune_results.h"

#include <fmt/format.h>

#include "core/build_info.h"

namespace tokamak::cli {
namespace {

using nlohmann::json;

std::string percent(double slower, double faster) { return fmt::format("{:+.1f}%", (slower / faster - 1.0) * 100.0); }

const tune::Timed* find(const tune::Row& row, const std::string& variant) {
    for (const tune::Timed& timed : row.timed)
        if (timed.variant == variant) return &timed;
    return nullptr;
}

std::string interval(const tune::Row& row) {
    const tune::Timed* timed = find(row, row.variant);
    return timed == nullptr ? std::string() : fmt::format("{:.1f}-{:.1f}", timed->low, timed->high);
}

json row_json(const NamedTuning& named, const tune::Row& row, const tune::Timed& timed) {
    json object = {{"op", named.op},      {"shape", named.shape},     {"format", named.format}, {"tokens", row.tokens},
                   {"mode", "graph"},     {"variant", timed.variant}, {"source", "option"},     {"us_median", timed.us},
                   {"us_low", timed.low}, {"us_high", timed.high},    {"samples", timed.rounds}};
    if (timed.variant != row.variant) return object;
    object["source"] = "tuned";
    object["fallback"] = row.fallback;
    object["default_us"] = row.fallback_us > 0 ? json(row.fallback_us) : json();
    object["runner_up"] = row.runner_up;
    object["runner_up_us"] = row.runner_up.empty() ? json() : json(row.runner_up_us);
    return object;
}

json reason_json(const NamedTuning& named, const tune::Skipped& skipped) {
    return {{"op", named.op},           {"shape", named.shape},       {"format", named.format},
            {"tokens", skipped.tokens}, {"variant", skipped.variant}, {"reason", skipped.reason}};
}

}  // namespace

Table tuning_table() {
    return Table({{"shape", 14, true},
                  {"format", 9, true},
                  {"tokens", 6},
                  {"variant", 24, true},
                  {"us", 8},
                  {"interval", 13},
                  {"default", 24, true},
                  {"slower by", 9},
                  {"runner-up", 24, true},
                  {"slower by", 9}});
}

void print_tuning(const NamedTuning& named, Table& table) {
    for (const tune::Row& row : named.tuning.rows) {
        const bool kept = row.variant == row.fallback;
        const std::string gain = kept ? "" : row.fallback_us > 0 ? percent(row.fallback_us, row.us) : "failed";
        table.row({named.shape, named.format, std::to_string(row.tokens), row.variant, fmt::format("{:.1f}", row.us),
                   interval(row), kept ? "kept" : row.fallback, gain, row.runner_up,
                   row.runner_up.empty() ? "" : percent(row.runner_up_us, row.us)});
    }
    for (const tune::Skipped& skipped : named.tuning.skipped)
        table.note(
            fmt::format("{} {}, {} tokens: no choice: {}", named.shape, named.format, skipped.tokens, skipped.reason));
    for (const tune::Skipped& failed : named.tuning.failed)
        table.note(fmt::format("{} {}, {} tokens: {} failed: {}", named.shape, named.format, failed.tokens,
                               failed.variant, failed.reason));
}

json tuning_json(std::span<const NamedTuning> tunings) {
    json document = {{"benchmark", "tuning"},
                     {"tokamak", build_info::version()},
                     {"commit", build_info::commit()},
                     {"cuda_sources", build_info::cuda_sources_hash()},
                     {"device", tunings.empty() ? std::string() : tunings[0].tuning.device},
                     {"rows", json::array()},
                     {"cases", json::array()},
                     {"skipped", json::array()},
                     {"failed", json::array()},
                     {"refused", json::array()}};
    for (const NamedTuning& named : tunings) {
        for (const tune::Row& row : named.tuning.rows)
            for (const tune::Timed& timed : row.timed)
                if (timed.error.empty() && timed.us > 0) document["rows"].push_back(row_json(named, row, timed));
        document["cases"].push_back({{"op", named.op},
                                     {"shape", named.shape},
                                     {"format", named.format},
                                     {"problem", named.tuning.problem},
                                     {"seconds", named.seconds}});
        for (const tune::Candidate& refused : named.tuning.refused)
            document["refused"].push_back({{"op", named.op},
                                           {"shape", named.shape},
                                           {"format", named.format},
                                           {"variant", refused.variant},
                                           {"reason", refused.refusal}});
        for (const tune::Skipped& skipped : named.tuning.skipped)
            document["skipped"].push_back(reason_json(named, skipped));
        for (const tune::Skipped& failed : named.tuning.failed)
            document["failed"].push_back(reason_json(named, failed));
    }
    return document;
}

}  // namespace tokamak::cli
