// SPDX-License-Identifier: Apache-2.0
// `bench tuning`: what was chosen against the best that an exhaustive measurement finds.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "tokamak/tune.h"

namespace tokamak::cli::tuning {

/// Counts between the buckets: the middle of each two neighbours, where there is one.
std::vector<std::int64_t> counts_between(const std::vector<std::int64_t>& buckets);

/// A token count: what plans take, and every candidate's time in one and the same run.
struct Judged {
    std::string op, shape, format;
    std::int64_t tokens = 0;
    bool between = false;  ///< of two buckets
    std::string chosen;
    std::string source;  ///< of the choice
    double us = 0;       ///< of the chosen; 0 if it failed
    std::string best;
    double best_us = 0;
    std::string fallback;  ///< the heuristic's
    double fallback_us = 0;
    bool slower_than_fallback = false;  ///< beyond the noise
    std::vector<std::string> tunings;   ///< what each tuning chose; buckets only
    double spread = 0;                  ///< slowest over fastest of these, less one

    [[nodiscard]] double loss() const noexcept { return best_us > 0 && us > 0 ? us / best_us - 1.0 : 1.0; }
};

/// `row` holds all candidates; `winners` may be empty.
Judged judge(const tune::Row& row, const PlanRow& choice, const std::vector<std::string>& winners);

struct Verdict {
    int buckets = 0, buckets_within = 0;  ///< within 2 % of the best
    int between = 0, between_within = 0;  ///< within 5 %
    int agreeing = 0;                     ///< buckets whose tunings lie within 2 % of one another
    int slower_than_fallback = 0;
    double gain = 0;  ///< time of the heuristic over that of the choice, all rows together, less one

    /// 95 % of the buckets and of the counts between, all tunings agree, nothing slower than the heuristic.
    [[nodiscard]] bool good() const;
};
Verdict verdict_of(std::span<const Judged> rows);

/// A problem: its rows, and what could not be judged.
struct JudgedCase {
    std::string op, shape, format;
    std::vector<Judged> rows;
    std::vector<tune::Skipped> skipped;
    double seconds = 0;  ///< that it took, tunings and first contact included
};
/// Of all rows.
Verdict verdict_of(std::span<const JudgedCase> cases);

/// What is owed, what was found, and whether that is enough.
struct Claim {
    std::string text;
    std::string found;
    double value = 0;
    double needed = 0;  ///< least value, or with `at_most` largest
    bool at_most = false;
    bool pass = false;
};
std::vector<Claim> claims_of(const Verdict& verdict);

/// Rows in the form of benchmark results; a summary of each case, the verdict and its claims.
nlohmann::json judged_json(std::span<const JudgedCase> cases, const std::string& device);

}  // namespace tokamak::cli::tuning
