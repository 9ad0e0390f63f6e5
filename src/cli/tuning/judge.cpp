// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/judge.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/build_info.h"

namespace tokamak::cli::tuning {
namespace {

constexpr double kBucketLoss = 0.02;
constexpr double kBetweenLoss = 0.05;
constexpr double kSpread = 0.02;
constexpr double kShare = 0.95;
constexpr double kNoticed = 0.005;  ///< less is no difference, as in the tuner

const tune::Timed* find(const tune::Row& row, const std::string& variant) {
    for (const tune::Timed& timed : row.timed)
        if (timed.variant == variant && timed.error.empty() && timed.us > 0) return &timed;
    return nullptr;
}

double us_of(const tune::Row& row, const std::string& variant) {
    const tune::Timed* const timed = find(row, variant);
    return timed == nullptr ? 0 : timed->us;
}

double spread_of(const tune::Row& row, const std::vector<std::string>& variants) {
    double least = 0;
    double most = 0;
    for (const std::string& variant : variants) {
        const double us = us_of(row, variant);
        if (us <= 0) return 1;
        least = least == 0 ? us : std::min(least, us);
        most = std::max(most, us);
    }
    return variants.empty() ? 0 : most / least - 1.0;
}

nlohmann::json row_json(const Judged& row) {
    return {{"op", row.op},
            {"shape", row.shape},
            {"format", row.format},
            {"tokens", row.tokens},
            {"mode", "graph"},
            {"between", row.between},
            {"variant", row.chosen},
            {"source", row.source},
            {"us_median", row.us},
            {"best", row.best},
            {"best_us", row.best_us},
            {"loss", row.loss()},
            {"fallback", row.fallback},
            {"default_us", row.fallback_us},
            {"slower_than_default", row.slower_than_fallback},
            {"tunings", row.tunings},
            {"spread", row.spread}};
}

nlohmann::json name_json(const JudgedCase& judged) {
    return {{"op", judged.op}, {"shape", judged.shape}, {"format", judged.format}};
}

nlohmann::json verdict_json(const Verdict& verdict) {
    return {{"buckets", verdict.buckets},
            {"buckets_within_2_percent", verdict.buckets_within},
            {"between", verdict.between},
            {"between_within_5_percent", verdict.between_within},
            {"tunings_agree", verdict.agreeing},
            {"slower_than_default", verdict.slower_than_fallback},
            {"gain", verdict.gain},
            {"good", verdict.good()}};
}

}  // namespace

std::vector<std::int64_t> counts_between(const std::vector<std::int64_t>& buckets) {
    std::vector<std::int64_t> counts;
    for (std::size_t i = 1; i < buckets.size(); ++i)
        if (const std::int64_t middle = (buckets[i - 1] + buckets[i]) / 2; middle > buckets[i - 1])
            counts.push_back(middle);
    return counts;
}

Judged judge(const tune::Row& row, const PlanRow& choice, const std::vector<std::string>& winners) {
    Judged judged{.tokens = row.tokens, .chosen = choice.variant, .source = choice.source, .fallback = row.fallback};
    judged.us = us_of(row, choice.variant);
    for (const tune::Timed& timed : row.timed) {
        if (!timed.error.empty() || timed.us <= 0 || (judged.best_us > 0 && timed.us >= judged.best_us)) continue;
        judged.best = timed.variant;
        judged.best_us = timed.us;
    }
    judged.fallback_us = us_of(row, row.fallback);
    const tune::Timed* const chosen = find(row, choice.variant);
    const tune::Timed* const fallback = find(row, row.fallback);
    judged.slower_than_fallback = chosen != nullptr && fallback != nullptr && chosen->low > fallback->high &&
                                  chosen->us > fallback->us * (1.0 + kNoticed);
    judged.tunings = winners;
    judged.spread = spread_of(row, winners);
    return judged;
}

bool Verdict::good() const {
    const auto claims = claims_of(*this);
    return buckets > 0 && std::all_of(claims.begin(), claims.end(), [](const Claim& claim) { return claim.pass; });
}

std::vector<Claim> claims_of(const Verdict& verdict) {
    const auto share = [](const char* text, int good, int all, double needed) {
        const double value = all > 0 ? static_cast<double>(good) / all : 1.0;
        return Claim{text, fmt::format("{} of {}", good, all), value, needed, false, value >= needed};
    };
    return {share("buckets within 2% of the best, 95% of them", verdict.buckets_within, verdict.buckets, kShare),
            share("counts between buckets within 5%, 95% of them", verdict.between_within, verdict.between, kShare),
            share("tunings within 2% of one another, at each bucket", verdict.agreeing, verdict.buckets, 1.0),
            {"slower than the default beyond the noise, never", fmt::format("{}", verdict.slower_than_fallback),
             static_cast<double>(verdict.slower_than_fallback), 0, true, verdict.slower_than_fallback == 0}};
}

Verdict verdict_of(std::span<const Judged> rows) {
    Verdict verdict;
    double chosen = 0;
    double fallback = 0;
    for (const Judged& row : rows) {
        ++(row.between ? verdict.between : verdict.buckets);
        if (row.between) {
            verdict.between_within += row.loss() <= kBetweenLoss ? 1 : 0;
        } else {
            verdict.buckets_within += row.loss() <= kBucketLoss ? 1 : 0;
            verdict.agreeing += row.spread <= kSpread ? 1 : 0;
        }
        verdict.slower_than_fallback += row.slower_than_fallback ? 1 : 0;
        if (row.us <= 0 || row.fallback_us <= 0) continue;
        chosen += row.us;
        fallback += row.fallback_us;
    }
    if (chosen > 0) verdict.gain = fallback / chosen - 1.0;
    return verdict;
}

Verdict verdict_of(std::span<const JudgedCase> cases) {
    std::vector<Judged> rows;
    for (const JudgedCase& judged : cases) rows.insert(rows.end(), judged.rows.begin(), judged.rows.end());
    return verdict_of(rows);
}

nlohmann::json judged_json(std::span<const JudgedCase> cases, const std::string& device) {
    const Verdict verdict = verdict_of(cases);
    nlohmann::json document = {{"benchmark", "tuning_judged"},
                               {"tokamak", build_info::version()},
                               {"commit", build_info::commit()},
                               {"cuda_sources", build_info::cuda_sources_hash()},
                               {"device", device},
                               {"verdict", verdict_json(verdict)},
                               {"claims", nlohmann::json::array()},
                               {"cases", nlohmann::json::array()},
                               {"skipped", nlohmann::json::array()},
                               {"rows", nlohmann::json::array()}};
    for (const Claim& claim : claims_of(verdict))
        document["claims"].push_back({{"claim", claim.text},
                                      {"found", claim.found},
                                      {"value", claim.value},
                                      {claim.at_most ? "at_most" : "at_least", claim.needed},
                                      {"pass", claim.pass}});
    for (const JudgedCase& judged : cases) {
        nlohmann::json summary = verdict_json(verdict_of(std::span(judged.rows)));
        summary.update(name_json(judged));
        summary["seconds"] = judged.seconds;
        document["cases"].push_back(std::move(summary));
        for (const Judged& row : judged.rows) document["rows"].push_back(row_json(row));
        for (const tune::Skipped& skipped : judged.skipped) {
            nlohmann::json line = name_json(judged);
            line.update({{"tokens", skipped.tokens}, {"reason", skipped.reason}});
            document["skipped"].push_back(std::move(line));
        }
    }
    return document;
}

}  // namespace tokamak::cli::tuning
