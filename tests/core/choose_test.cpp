// SPDX-License-Identifier: Apache-2.0
#include "core/choose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "support/expect_error.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tokamak/tune.h"

namespace tokamak {
namespace {

using test::CapturedLog;
using test::expect_error;

/// A request in which every source of a configuration names a variant of its own.
struct Sources {
    ConfigStore tuned;
    ConfigStore shipped;
    ChooseRequest request;

    Sources() {
        tuned.set("gpu", "toy wide", {{8, "from_tuned"}, {64, "from_tuned_64"}});
        shipped.set("gpu", "toy wide", {{16, "from_shipped"}});
        request.op = "toy";
        request.problem_key = "toy wide";
        request.max_tokens = 64;
        request.device_name = "gpu";
        request.legal = {"from_option",   "from_override", "from_tuned",
                         "from_tuned_64", "from_shipped",  "from_heuristic"};
        request.heuristic = [](std::int64_t) { return std::string("from_heuristic"); };
        request.override_name = "TOKAMAK_TOY_CONFIG";
        request.tuned = &tuned;
        request.shipped = &shipped;
    }

    [[nodiscard]] PlanRow row(std::int64_t tokens) const {
        for (const PlanRow& row : choose_table(request))
            if (row.tokens >= tokens) return row;
        return {};
    }
};

TEST(Choose, CountsOfTheTablesGetRowsBesideTheBuckets) {
    Sources s;
    s.tuned.set("gpu", "toy wide", {{6, "from_override"}, {8, "from_tuned"}, {100, "from_tuned_64"}});
    std::vector<std::int64_t> counts;
    for (const PlanRow& row : choose_table(s.request)) counts.push_back(row.tokens);
    EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 2, 4, 6, 8, 16, 32, 64})) << "100 lies above the largest call";
    EXPECT_EQ(s.row(5).variant, "from_override");
    EXPECT_EQ(s.row(7).variant, "from_tuned");
    EXPECT_EQ(s.row(64).variant, "from_tuned_64");
    s.request.legal = {"from_heuristic"};
    const CapturedLog log;  // the tables name other variants
    EXPECT_EQ(s.row(5).source, "heuristic");
    s.request.max_tokens = 0;
    EXPECT_EQ(choose_table(s.request).size(), 1U);
}

/// A heuristic whose answer changes at token counts that are no buckets.
std::string in_steps(std::int64_t tokens) {
    if (tokens <= 5) return "from_shipped";
    return tokens <= 24 || tokens > 132 ? "from_tuned" : "from_override";
}

TEST(Choose, WhereNoTableDecidesTheHeuristicIsAskedBetweenTheBucketsToo) {
    Sources s;
    s.request.tuned = s.request.shipped = nullptr;
    s.request.heuristic = &in_steps;
    for (const std::int64_t maximum : {1, 5, 6, 24, 31, 64, 100, 200, 300, 5000}) {
        s.request.max_tokens = maximum;
        const auto table = choose_table(s.request);
        for (std::int64_t tokens = 1; tokens <= maximum; ++tokens)
            ASSERT_EQ(row_at(table, tokens).variant, in_steps(tokens)) << tokens << " of " << maximum;
        EXPECT_EQ(table.back().tokens, maximum);
        const auto buckets = tune::token_buckets(maximum);
        EXPECT_LE(table.size(), buckets.size() + 3) << "rows only where the answer changes";
        for (const std::int64_t bucket : buckets) EXPECT_EQ(row_at(table, bucket).tokens, bucket);
    }
}

TEST(Choose, CountsAboveWhichTheDefaultChangesLieBetweenNeighbours) {
    Sources s;
    s.request.max_tokens = 256;
    s.request.heuristic = &in_steps;
    const auto defaults = heuristic_rows(s.request);
    const std::vector<std::int64_t> buckets = tune::token_buckets(256);
    EXPECT_EQ(with_changes(buckets, defaults),
              (std::vector<std::int64_t>{1, 2, 4, 5, 8, 16, 24, 32, 64, 128, 132, 256}));
    EXPECT_EQ(with_changes({4, 8, 9}, defaults), (std::vector<std::int64_t>{4, 5, 8, 9}));
    EXPECT_EQ(with_changes({1, 37, 256}, defaults), (std::vector<std::int64_t>{1, 37, 256})) << "too far apart";
    EXPECT_EQ(with_changes({5}, defaults), (std::vector<std::int64_t>{5}));
    EXPECT_EQ(with_changes({16, 32}, {{256, "always", "heuristic"}}), (std::vector<std::int64_t>{16, 32}));
}

/// As a plan's workspace has to: whatever a smaller plan runs, a larger one runs too.
TEST(Choose, EveryVariantOfASmallerMaximumIsInTheTableOfALargerOne) {
    Sources s;
    s.request.tuned = s.request.shipped = nullptr;
    s.request.heuristic = [](std::int64_t tokens) { return std::to_string(tokens / 7); };
    const auto variants = [&](std::int64_t maximum) {
        s.request.max_tokens = maximum;
        std::set<std::string> names;
        for (const PlanRow& row : choose_table(s.request)) names.insert(row.variant);
        return names;
    };
    for (std::int64_t maximum = 4; maximum < 256; maximum += 4) {
        const auto small = variants(maximum);
        const auto large = variants(maximum + 4);
        EXPECT_TRUE(std::includes(large.begin(), large.end(), small.begin(), small.end())) << maximum;
    }
}

TEST(Choose, BetweenTheRowsOfATableTheHeuristicIsNotAsked) {
    Sources s;
    s.request.heuristic = &in_steps;
    s.tuned.set("gpu", "toy wide", {{16, "from_tuned"}, {64, "gone"}});
    s.request.shipped = nullptr;
    const CapturedLog log;
    EXPECT_EQ(s.row(3).source, "tuned");
    EXPECT_EQ(s.row(17).source, "heuristic") << "the table's row for 64 tokens cannot run";
    EXPECT_EQ(s.row(17).tokens, 24);
    EXPECT_EQ(s.row(17).variant, "from_tuned");
    EXPECT_EQ(s.row(25).variant, "from_override");
    s.request.override_text = R"({"variant": "from_option"})";
    EXPECT_EQ(choose_table(s.request).size(), tune::token_buckets(64).size()) << "nothing changes between them";
}

TEST(Choose, PrecedenceFromOptionDownToHeuristic) {
    Sources s;
    s.request.pinned = "from_option";
    s.request.override_text = R"({"variant": "from_override"})";
    const auto expect = [&](const char* variant, const char* source) {
        const PlanRow row = s.row(8);
        EXPECT_EQ(row.variant, variant);
        EXPECT_EQ(row.source, source);
    };
    expect("from_option", "option");
    s.request.pinned.clear();
    expect("from_override", "override");
    s.request.override_text.reset();
    expect("from_tuned", "tuned");
    s.request.tuned = nullptr;
    expect("from_shipped", "shipped");
    s.request.shipped = nullptr;
    expect("from_heuristic", "heuristic");
}

TEST(Choose, StoresOfOtherProblemsAndDevicesDoNotCount) {
    Sources s;
    s.request.problem_key = "toy narrow";
    EXPECT_EQ(s.row(8).source, "heuristic");
    s.request.problem_key = "toy wide";
    s.request.device_name = "other gpu";
    EXPECT_EQ(s.row(8).source, "heuristic");
    s.tuned.set("other gpu", "toy wide", {});
    EXPECT_EQ(s.row(8).source, "heuristic");
}

TEST(Choose, RoundsUpToATunedBucketAndFlagsWhatLiesBeyond) {
    Sources s;
    s.request.max_tokens = 300;
    for (const PlanRow& row : choose_table(s.request)) {
        EXPECT_EQ(row.source, "tuned");
        EXPECT_EQ(row.variant, row.tokens <= 8 ? "from_tuned" : "from_tuned_64") << row.tokens;
        EXPECT_EQ(row.extrapolated, row.tokens > 64) << row.tokens;
    }
}

/// As a tuning leaves it whose time budget ended after the first counts.
TEST(Choose, BeyondAShortTableTheHeuristicDecidesWhereItsAnswerChanges) {
    Sources s;
    s.request.max_tokens = 256;
    s.request.shipped = nullptr;
    s.request.heuristic = &in_steps;
    s.tuned.set("gpu", "toy wide", {{1, "from_tuned_64"}, {2, "from_tuned_64"}});
    EXPECT_FALSE(s.row(2).extrapolated);
    EXPECT_TRUE(s.row(5).extrapolated);
    EXPECT_EQ(s.row(5).variant, "from_tuned_64") << "the heuristic sees no border between 2 and 5";
    for (const std::int64_t tokens : {8, 24, 32, 132, 256}) {
        EXPECT_EQ(s.row(tokens).source, "heuristic") << tokens;
        EXPECT_EQ(s.row(tokens).variant, in_steps(tokens)) << tokens;
        EXPECT_FALSE(s.row(tokens).extrapolated) << tokens;
    }
}

TEST(Choose, WhatTheShippedTableMeasuredGoesBeforeWhatTheTunedOneExtrapolates) {
    Sources s;
    s.tuned.set("gpu", "toy wide", {{1, "from_tuned"}, {2, "from_tuned"}});
    s.shipped.set("gpu", "toy wide", {{16, "from_shipped"}});
    s.request.max_tokens = 64;
    EXPECT_EQ(s.row(2).source, "tuned");
    EXPECT_EQ(s.row(8).source, "shipped");
    EXPECT_EQ(s.row(16).source, "shipped");
    EXPECT_EQ(s.row(64).source, "tuned") << "beyond both: the heuristic has one answer everywhere";
    EXPECT_TRUE(s.row(64).extrapolated);
}

TEST(Choose, HeuristicIsAskedForEachBucket) {
    Sources s;
    s.request.tuned = s.request.shipped = nullptr;
    s.request.heuristic = [](std::int64_t tokens) { return std::string(tokens > 4 ? "from_tuned" : "from_shipped"); };
    for (const PlanRow& row : choose_table(s.request)) {
        EXPECT_EQ(row.variant, row.tokens > 4 ? "from_tuned" : "from_shipped");
        EXPECT_FALSE(row.extrapolated);
    }
}

TEST(Choose, MaximumOfZeroStillHasARow) {
    Sources s;
    s.request.max_tokens = 0;
    const auto table = choose_table(s.request);
    ASSERT_EQ(table.size(), 1U);
    EXPECT_EQ(table[0].tokens, 0);
    EXPECT_EQ(table[0].variant, "from_tuned");
}

TEST(Choose, IllegalPinIsRefusedWithTheLegalNames) {
    Sources s;
    s.request.pinned = "sm100_only";
    expect_error([&] { (void)choose_table(s.request); }, ErrorCode::invalid_argument,
                 {"toy: variant \"sm100_only\"", "expected one of from_option, from_override"});
}

TEST(Choose, BadOverridesNameVariableKeyAndValue) {
    Sources s;
    const auto refuses = [&](const std::string& text, const std::vector<std::string>& parts) {
        s.request.override_text = text;
        SCOPED_TRACE(text.substr(0, 60));
        expect_error([&] { (void)choose_table(s.request); }, ErrorCode::parse, parts);
    };
    refuses("{", {"TOKAMAK_TOY_CONFIG", "not valid JSON", "'{'"});
    refuses("", {"TOKAMAK_TOY_CONFIG", "not valid JSON"});
    refuses("{\"variant\": \"\xFF\"}", {"not valid JSON"});
    refuses("[1, 2]", {"TOKAMAK_TOY_CONFIG is an array, expected a JSON object"});
    refuses("7", {"is 7, expected a JSON object"});
    refuses(R"({"tile": 64})", {"unknown key \"tile\"", "value 64", "known: \"variant\""});
    refuses(R"({"variant": 3})", {"\"variant\" is 3", "expected one of from_option"});
    refuses(R"({"variant": null})", {"\"variant\" is null"});
    refuses(R"({"variant": "nope"})", {"\"variant\" is \"nope\"", "expected one of from_option"});
    refuses(R"({"variant": {"a": 1}})", {"\"variant\" is an object"});
    const std::string deep = std::string(200000, '[') + std::string(200000, ']');
    refuses(deep, {"is an array, expected a JSON object"});
    refuses(R"({"variant": )" + deep + "}", {"\"variant\" is an array"});
}

/// Variants named by two digits; an override may set either.
TEST(Choose, APartialOverrideKeepsTheOtherFieldsOfWhatTheCountSelects) {
    Sources s;
    s.request.tuned = s.request.shipped = nullptr;
    s.request.legal = {"v11", "v12", "v21", "v22", "v32"};
    s.request.heuristic = [](std::int64_t tokens) { return std::string(tokens > 4 ? "v22" : "v11"); };
    s.request.fields = {{"first", "second"}, [](std::string variant, const std::string& key, std::int64_t value) {
                            variant[key == "first" ? 1 : 2] = static_cast<char>('0' + value);
                            return variant;
                        }};
    const auto rows_are = [&](const std::string& text, const char* small, const char* large) {
        s.request.override_text = text;
        for (const PlanRow& row : choose_table(s.request)) {
            EXPECT_EQ(row.variant, row.tokens > 4 ? large : small) << text;
            EXPECT_EQ(row.source, "override") << text;
        }
    };
    rows_are(R"({"second": 2})", "v12", "v22");
    rows_are(R"({"first": 2, "second": 1})", "v21", "v21");
    rows_are(R"({"variant": "v11", "first": 2})", "v21", "v21");
    const auto refuses = [&](const std::string& text, const std::vector<std::string>& parts) {
        s.request.override_text = text;
        expect_error([&] { (void)choose_table(s.request); }, ErrorCode::parse, parts);
    };
    refuses(R"({"first": 3})", {"TOKAMAK_TOY_CONFIG: \"first\" = 3 gives the variant v31", "expected one of v11, v12"});
    refuses(R"({"third": 1})", {"unknown key \"third\" with value 1", "known: \"variant\", first, second"});
    refuses(R"({"first": "2"})", {"\"first\" is \"2\", expected an integer"});
    refuses(R"({"first": 2.0})", {"\"first\" is 2.0, expected an integer"});
    refuses(R"({"first": 18446744073709551615})", {"\"first\" is 18446744073709551615, expected an integer"});
}

TEST(Choose, ABadOverrideIsAnErrorEvenWhereAPinOutranksIt) {
    Sources s;
    s.request.pinned = "from_option";
    s.request.override_text = "{";
    EXPECT_THROW((void)choose_table(s.request), Error);
}

TEST(Choose, AnEmptyOverrideObjectOverridesNothing) {
    Sources s;
    s.request.override_text = "{}";
    EXPECT_EQ(s.row(8).source, "tuned");
}

TEST(Choose, AnIllegalStoredVariantIsPassedOverWithOneWarning) {
    Sources s;
    s.tuned.set("gpu", "toy wide", {{4, "gone"}, {8, "from_tuned"}, {64, "gone"}});
    const CapturedLog log;
    EXPECT_EQ(s.row(1).variant, "from_shipped");
    const std::string warning = log.only();
    for (const char* part : {"toy", "tuned", "gone", "\"toy wide\"", "passed over"})
        EXPECT_NE(warning.find(part), std::string::npos) << part << " is not in: " << warning;
    const auto table = choose_table(s.request);
    for (const PlanRow& row : table) EXPECT_EQ(row.source, row.tokens == 8 ? "tuned" : "shipped") << row.tokens;
}

TEST(Choose, RowsSayWhereTheyCameFromAndHowClearTheDecisionWas) {
    Sources s;
    s.request.max_tokens = 128;
    s.tuned.set("gpu", "toy wide",
                {{8, "from_tuned", 10.0, "from_shipped", 11.0}, {64, "from_tuned_64", 20.0, "from_tuned", 19.0}});
    EXPECT_EQ(explain(s.row(4)), "tuned at 8; next from_shipped +10.0%");
    EXPECT_EQ(explain(s.row(128)), "tuned at 64, extrapolated; next from_tuned -5.0%");
    EXPECT_EQ(s.row(4).bucket, 8);
    s.request.tuned = nullptr;
    EXPECT_EQ(explain(s.row(8)), "shipped at 16");
    s.request.shipped = nullptr;
    EXPECT_EQ(explain(s.row(8)), "heuristic");
    EXPECT_EQ(s.row(8).bucket, 0);
}

TEST(Choose, KeysOfTheStoresNameOperatorFieldsAndOptions) {
    EXPECT_EQ(stored_key("toy", "", {}, 132), "toy");
    EXPECT_EQ(stored_key("toy", "wide=1", {}, 132), "toy wide=1");
    EXPECT_EQ(stored_key("toy", "wide=1", {.max_sms = 132}, 132), "toy wide=1");
    EXPECT_EQ(stored_key("toy", "wide=1", {.max_sms = 64}, 132), "toy wide=1 max_sms=64");
    EXPECT_EQ(stored_key("toy", "wide=1", {.combine = Combine::atomic}, 132), "toy wide=1 combine=atomic");
    EXPECT_EQ(stored_key("toy", "", {.combine = Combine::deterministic}, 132), "toy combine=deterministic");
    EXPECT_EQ(stored_key("toy", "", {.max_workspace_bytes = 4096}, 132), "toy max_workspace=4096");
}

TEST(Choose, IntoAPlanReadsEnvironmentAndStore) {
    const test::TemporaryFolder folder;
    ConfigStore store;
    store.set("cpu", "toy key", {{2, "b"}});
    store.save(folder.file("store.json"));
    const test::ScopedVariable path(environment::kConfigStore, folder.file("store.json"));
    const auto made = [](const char* override_name) {
        detail::PlanState state;
        choose_into(
            state, "toy", Device::cpu(), 4, {}, "key", {"a", "b"}, [](auto) { return std::string("a"); },
            override_name);
        return state.table[0].source + " " + state.table[0].variant + " " + std::to_string(state.row_variants[0]);
    };
    EXPECT_EQ(made(nullptr), "tuned b 1");
    const test::ScopedVariable text("TOKAMAK_TOY_CONFIG", R"({"variant": "a"})");
    EXPECT_EQ(made("TOKAMAK_TOY_CONFIG"), "override a 0");
    EXPECT_EQ(made(nullptr), "tuned b 1");
}

TEST(Choose, OptionsAndDevicesThatNoPlanCanHaveAreRefused) {
    const auto made = [](const PlanOptions& options, Device device) {
        detail::PlanState state;
        choose_cpu(state, "toy", device, 4, options);
    };
    EXPECT_NO_THROW(made({.max_sms = 0}, Device::cpu()));
    test::expect_error([&] { made({.max_sms = -1}, Device::cpu()); }, ErrorCode::invalid_argument,
                       {"toy: `max_sms` is -1", "expected 0 to"});
    test::expect_error(
        [&] {
            made({}, {DeviceType::cpu, 1});
        },
        ErrorCode::unsupported, {"device cpu:1 does not exist"});
}

}  // namespace
}  // namespace tokamak
