// SPDX-License-Identifier: Apache-2.0
// Tunings as stores: on disk, between ranks, in the plans that follow.
#include <gtest/gtest.h>

#include "core/choose.h"
#include "core/config_store.h"
#include "support/expect_error.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tune/scripted.h"

namespace tokamak::tune {
namespace {

using test::CapturedLog;
using test::ScopedVariable;
using test::TemporaryFolder;

Tuning tuning_of(const std::string& problem, const std::string& winner, std::vector<std::int64_t> buckets = {1, 64}) {
    Tuning tuning{.device = "cpu", .problem = problem, .build = "b1"};
    for (const std::int64_t tokens : buckets) {
        Row row{.tokens = tokens, .variant = winner, .fallback = "x", .us = 10};
        row.runner_up = "x";
        row.runner_up_us = 12;
        tuning.rows.push_back(row);
    }
    tuning.failed.push_back({64, "broken", "crashed"});
    return tuning;
}

/// The row of a plan of that operator for `tokens` tokens, with the process's stores.
PlanRow row_of_plan(const char* op, std::int64_t tokens) {
    detail::PlanState state;
    choose_into(state, op, Device::cpu(), 256, {}, "wide=1", {"x", "y", "z"},
                [](std::int64_t) { return std::string("x"); });
    return state.table[state.row_index(tokens)];
}

TEST(TunedTable, SerializedOnRankZeroGivesTheSameRowsToTheOthers) {
    const ScopedVariable unset(environment::kConfigStore, std::nullopt);
    const std::string text = serialize(std::vector{tuning_of("rank_op wide=1", "y"), tuning_of("other_op", "z")});
    EXPECT_EQ(serialize(std::vector{tuning_of("rank_op wide=1", "y"), tuning_of("other_op", "z")}), text);
    EXPECT_EQ(row_of_plan("rank_op", 64).source, "heuristic");
    const CapturedLog log;
    EXPECT_EQ(install(text), 2U);
    EXPECT_TRUE(log.messages().empty());
    EXPECT_EQ(explain(row_of_plan("rank_op", 64)), "tuned at 64; next x +20.0%");
    EXPECT_EQ(row_of_plan("rank_op", 64).variant, "y");
    EXPECT_EQ(explain(row_of_plan("rank_op", 256)), "tuned at 64, extrapolated; next x +20.0%");
    EXPECT_EQ(row_of_plan("third_op", 1).source, "heuristic");
}

TEST(TunedTable, InstalledTablesWinOverTheFileAndNewerOverOlder) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    const ScopedVariable variable(environment::kConfigStore, path);
    save(std::vector{tuning_of("file_op wide=1", "z", {1, 64, 256})}, path);
    EXPECT_EQ(row_of_plan("file_op", 64).variant, "z");
    (void)install(serialize(std::vector{tuning_of("file_op wide=1", "y")}));
    EXPECT_EQ(row_of_plan("file_op", 64).variant, "y");
    EXPECT_EQ(row_of_plan("file_op", 256).variant, "z") << "the file's other rows stay";
    (void)install(serialize(std::vector{tuning_of("file_op wide=1", "x")}));
    EXPECT_EQ(row_of_plan("file_op", 64).variant, "x");
    // Also after the file changed.
    save(std::vector{tuning_of("file_op wide=1", "z")}, path);
    EXPECT_EQ(row_of_plan("file_op", 64).variant, "x");
}

TEST(TunedTable, InstallingNonsenseIsOneWarning) {
    for (const char* text : {"", "nonsense", "[]", R"({"tokamak_store": 7})"}) {
        const CapturedLog log;
        EXPECT_EQ(install(text, "from rank 0"), 0U);
        EXPECT_EQ(log.only(), "from rank 0: not a Tokamak configuration store of version 1; ignored");
    }
}

TEST(TunedTable, SaveMergesAndKeepsFailures) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    save(std::vector{tuning_of("p", "y", {1, 2})}, path);
    save(std::vector{tuning_of("p", "z", {2, 4}), tuning_of("q", "y")}, path);
    const ConfigStore store = ConfigStore::load(path);
    EXPECT_EQ(*store.find("cpu", "p"),
              (TunedTable{{1, "y", 10, "x", 12, "b1"}, {2, "z", 10, "x", 12, "b1"}, {4, "z", 10, "x", 12, "b1"}}));
    EXPECT_EQ(store.entry("cpu", "p")->failed.at("broken").error, "crashed");
    EXPECT_EQ(store.entry("cpu", "p")->failed.at("broken").build, "b1");
    EXPECT_EQ(store.size(), 2U);
}

TEST(TunedTable, ATuningWithoutRowsLeavesOnlyItsFailures) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    save(std::vector{tuning_of("p", "y", {})}, path);
    EXPECT_TRUE(ConfigStore::load(path).find("cpu", "p")->empty());
    save(std::vector<Tuning>{}, path);
    EXPECT_EQ(ConfigStore::load(path).size(), 1U);
}

TEST(TunedTable, FromRequestToPlan) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    const ScopedVariable variable(environment::kConfigStore, path);
    test::ScriptedClock clock;
    test::ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t tokens, int) {
        return variant == "y" ? 5.0 + static_cast<double>(tokens) : 10.0;
    });
    Request request = test::request_of({"x", "y", "z"}, token_buckets(64));
    request.device = "cpu";
    request.problem = stored_key("whole_op", "wide=1", {}, 1);
    save(std::vector{tune(request, runner, clock)}, path);
    EXPECT_EQ(row_of_plan("whole_op", 1).variant, "y");
    EXPECT_EQ(row_of_plan("whole_op", 4).variant, "y");
    EXPECT_EQ(row_of_plan("whole_op", 8).variant, "x");
    EXPECT_EQ(row_of_plan("whole_op", 8).source, "tuned");
}

}  // namespace
}  // namespace tokamak::tune
