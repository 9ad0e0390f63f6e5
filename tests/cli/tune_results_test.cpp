// SPDX-License-Identifier: Apache-2.0
// What `tokamak tune` says and writes, from scripted measurements.
#include "cli/tune_results.h"

#include <gtest/gtest.h>

#include "cli/report/html.h"
#include "tune/scripted.h"

namespace tokamak::cli {
namespace {

/// Three buckets: the default is kept, a win, out of memory; and one variant that crashes.
NamedTuning scripted() {
    test::ScriptedClock clock;
    test::ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t tokens, int) -> double {
        if (variant == "broken") throw Error(ErrorCode::device, "illegal address");
        return variant == "wide" && tokens == 64 ? 8 : (variant == "base" ? 10 : 12);
    });
    runner.on_prepare = [](std::int64_t tokens) {
        if (tokens == 512) throw Error(ErrorCode::out_of_memory, "80 GB are not free");
    };
    return {"fused_moe", "kimi-k2-e48", "int4_g32",
            tune::tune(test::request_of({"base", "wide", "broken"}, {1, 64, 512}), runner, clock)};
}

std::string printed(const NamedTuning& named) {
    ::testing::internal::CaptureStdout();
    Table table = tuning_table();
    print_tuning(named, table);
    return ::testing::internal::GetCapturedStdout();
}

TEST(TuneResults, TheTableShowsWinnersMarginsAndReasons) {
    const std::string text = printed(scripted());
    for (const char* part : {"base", "kept", "10.0-10.0", "+20.0%", "wide", "+25.0%",
                             "512 tokens: no choice: 80 GB are not free", "1 tokens: broken failed: illegal address"})
        EXPECT_NE(text.find(part), std::string::npos) << part << " is not in:\n" << text;
}

TEST(TuneResults, TheJsonHasEveryCandidateAndOneWinnerForEachCount) {
    const std::vector<NamedTuning> tunings = {scripted()};
    const nlohmann::json document = tuning_json(tunings);
    EXPECT_EQ(document, tuning_json(tunings));
    EXPECT_EQ(document["device"], "gpu");
    ASSERT_EQ(document["rows"].size(), 4U);
    int winners = 0;
    for (const auto& row : document["rows"])
        if (row["source"] == "tuned") {
            ++winners;
            EXPECT_EQ(row["default_us"], 10.0);
            EXPECT_EQ(row["variant"], row["tokens"] == 64 ? "wide" : "base");
        }
    EXPECT_EQ(winners, 2);
    EXPECT_EQ(document["skipped"][0]["reason"], "80 GB are not free");
    EXPECT_EQ(document["failed"][0]["variant"], "broken");
}

TEST(TuneResults, TheReportDrawsBestDefaultAndCandidates) {
    const std::vector<NamedTuning> tunings = {scripted()};
    const std::string html = report::html_report(report::read_results(tuning_json(tunings), "tuning.json"));
    EXPECT_NE(html.find("default, without tuning"), std::string::npos);
    EXPECT_NE(html.find("other configurations"), std::string::npos);
    EXPECT_NE(html.find("<b>A</b> base (1 tokens); <b>B</b> wide (64 tokens)."), std::string::npos);
}

TEST(TuneResults, OfNothing) {
    EXPECT_EQ(printed({}), "");
    EXPECT_TRUE(tuning_json({})["rows"].empty());
}

}  // namespace
}  // namespace tokamak::cli
