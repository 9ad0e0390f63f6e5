// SPDX-License-Identifier: Apache-2.0
// The judge of `bench tuning`: counts between the buckets, rows, verdict, claims and what is written.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/tuning/judge.h"

namespace tokamak::cli::tuning {
namespace {

TEST(Judge, CountsBetweenAreTheMiddles) {
    EXPECT_EQ(counts_between({1, 2, 4, 8}), (std::vector<std::int64_t>{3, 6}));
    EXPECT_TRUE(counts_between({7}).empty());
}

tune::Row three_times(double a, double b, double c) {
    tune::Row row;
    row.tokens = 8;
    row.fallback = "a";
    row.timed = {{"a", a, a * 0.99, a * 1.01, 9, ""}, {"b", b, b * 0.99, b * 1.01, 9, ""}, {"c", c, c, c, 9, "hung"}};
    return row;
}

TEST(Judge, TheChoiceIsComparedWithTheBestThatWorks) {
    const Judged kept = judge(three_times(10, 9.5, 1), {.variant = "a", .source = "tuned"}, {"a", "b"});
    EXPECT_EQ(kept.best, "b");
    EXPECT_NEAR(kept.loss(), 10 / 9.5 - 1, 1e-12);
    EXPECT_NEAR(kept.spread, 10 / 9.5 - 1, 1e-12);
    EXPECT_FALSE(kept.slower_than_fallback);
    const Judged slower = judge(three_times(10, 11, 1), {.variant = "b"}, {});
    EXPECT_TRUE(slower.slower_than_fallback);
    EXPECT_FALSE(judge(three_times(10, 10.1, 1), {.variant = "b"}, {}).slower_than_fallback) << "within the noise";
    EXPECT_EQ(judge(three_times(10, 11, 1), {.variant = "c"}, {}).loss(), 1) << "a choice that does not run";
}

TEST(Judge, TheVerdictCountsBucketsAndCountsBetween) {
    Judged good;
    good.us = good.best_us = 10;
    good.fallback_us = 12;
    Judged between = good;
    between.between = true;
    between.us = 10.4;
    std::vector<Judged> rows(20, good);
    rows.push_back(between);
    Verdict verdict = verdict_of(rows);
    EXPECT_TRUE(verdict.good());
    EXPECT_EQ(verdict.buckets, 20);
    EXPECT_EQ(verdict.between_within, 1);
    EXPECT_NEAR(verdict.gain, 252.0 / 210.4 - 1, 1e-12);
    rows[0].us = rows[1].us = 10.3;
    EXPECT_FALSE(verdict_of(rows).good()) << "2 of 20 buckets";
    rows[0].us = 10;
    EXPECT_TRUE(verdict_of(rows).good()) << "95 %";
    rows[5].slower_than_fallback = true;
    EXPECT_FALSE(verdict_of(rows).good());
    EXPECT_FALSE(verdict_of(std::span<const Judged>()).good());
}

TEST(Judge, ClaimsSayWhatIsOwedWhatWasFoundAndWhetherItIsEnough) {
    Verdict verdict{.buckets = 20, .buckets_within = 19, .between = 10, .between_within = 9, .agreeing = 20};
    auto claims = claims_of(verdict);
    ASSERT_EQ(claims.size(), 4U);
    EXPECT_TRUE(claims[0].pass);
    EXPECT_EQ(claims[0].found, "19 of 20");
    EXPECT_FALSE(claims[1].pass) << "90 %";
    EXPECT_TRUE(claims[2].pass);
    EXPECT_TRUE(claims[3].pass);
    verdict.slower_than_fallback = 1;
    verdict.agreeing = 19;
    claims = claims_of(verdict);
    EXPECT_FALSE(claims[2].pass);
    EXPECT_FALSE(claims[3].pass);
}

TEST(Judge, TheJsonHasRowsCasesAndClaims) {
    JudgedCase judged{.op = "fused_moe", .shape = "dsv3-ep8", .format = "bf16", .seconds = 4.5};
    judged.rows.push_back(judge(three_times(10, 9.5, 1), {.variant = "a", .source = "shipped"}, {"a"}));
    judged.skipped.push_back({32768, {}, "out of memory"});
    const std::vector<JudgedCase> cases = {judged};
    const auto document = judged_json(cases, "gpu");
    EXPECT_EQ(document["rows"].size(), 1U);
    EXPECT_EQ(document["cases"][0]["shape"], "dsv3-ep8");
    EXPECT_EQ(document["cases"][0]["buckets"], 1);
    EXPECT_EQ(document["cases"][0]["seconds"], 4.5);
    EXPECT_EQ(document["claims"].size(), 4U);
    EXPECT_EQ(document["claims"][0]["pass"], false) << "5 % behind the best";
    EXPECT_EQ(document["skipped"][0]["reason"], "out of memory");
    EXPECT_EQ(document["verdict"]["good"], false);
}

}  // namespace
}  // namespace tokamak::cli::tuning
