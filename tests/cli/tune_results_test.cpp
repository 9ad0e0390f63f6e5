// SPDX-License-Identifier: Apache-2.0
// What `tokamak tune` says and writes, from scripted measurements.
#include "cli/tune_results.h"

#include <gtest/gtest.h>

#include "cli/report/html.h"
#include "cli/run_tool.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
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

std::string store_text(const std::string& problem, const std::string& table) {
    return R"({"tokamak_store": 1, "entries": [{"device": "cpu", "problem": ")" + problem + R"(", )" + table + "}]}";
}

constexpr const char* kMeasured =
    R"("table": {"1": "cpu_f32", "64": "cpu_f64"}, "measured": {"64": {"us": 10, "runner_up": "cpu_f32", "runner_up_us": 10.4}},
       "failed": {"gone": {"build": "b1", "tokens": 4, "error": "hung"}})";

TEST(TuneStoreTool, ShowsRowsMarginsAndFailures) {
    const test::TemporaryFolder folder;
    const auto result = test::run_tool({"tune", "show", folder.write("s.json", store_text("fused_moe", kMeasured))});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_EQ(result.out,
              "cpu: fused_moe\n"
              "  tokens <= 1      cpu_f32\n"
              "  tokens <= 64     cpu_f64  10.0 us; next cpu_f32 +4.0%\n"
              "  failed at 4 tokens with build b1: gone: hung\n"
              "1 problems\n");
    EXPECT_EQ(test::run_tool({"tune", "show"}).status, 0) << "the shipped table";
    EXPECT_EQ(test::run_tool({"tune", "show", folder.file("missing.json")}).status, 2);
}

TEST(TuneStoreTool, MergesStoresAndRefusesOtherFiles) {
    const test::TemporaryFolder folder;
    const std::string a = folder.write("a.json", store_text("p", R"("table": {"1": "x", "2": "x"})"));
    const std::string b = folder.write("b.json", store_text("p", R"("table": {"2": "y"})"));
    const std::string out = folder.file("out.json");
    EXPECT_EQ(test::run_tool({"tune", "merge", a, b, "--out", out}).status, 0);
    EXPECT_EQ(test::run_tool({"tune", "show", out}).out,
              "cpu: p\n  tokens <= 1      x\n  tokens <= 2      y\n1 problems\n");
    const std::string notes = folder.write("notes.json", "[1, 2]");
    EXPECT_EQ(test::run_tool({"tune", "merge", a, notes, "--out", out}).status, 2);
    EXPECT_EQ(test::run_tool({"tune", "merge", a, "--out", notes}).status, 2);
    EXPECT_EQ(test::read_file(notes), "[1, 2]");
}

constexpr const char* kQwenKey =
    "fused_moe experts=128/128 hidden=2048 intermediate=768 top_k=8 weights=int4_g128 activation=swiglu weight=output "
    "act=bf16 out=bf16";

TEST(TuneStoreTool, ExplainSaysWhatATunedStoreGives) {
    const test::TemporaryFolder folder;
    const test::ScopedVariable variable(environment::kConfigStore,
                                        folder.write("s.json", store_text(kQwenKey, kMeasured)));
    const auto result =
        test::run_tool({"explain", "moe", "--shape", "qwen3-30b-a3b", "--max-tokens", "256", "--tokens", "200"});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_NE(result.out.find("tokens <= 64     cpu_f64 (tuned at 64; next cpu_f32 +4.0%)\n"), std::string::npos)
        << result.out;
    EXPECT_NE(result.out.find("200 tokens: row 256, variant cpu_f64, source tuned at 64, extrapolated; next"),
              std::string::npos)
        << result.out;
}

TEST(TuneResults, OfNothing) {
    EXPECT_EQ(printed({}), "");
    EXPECT_TRUE(tuning_json({})["rows"].empty());
}

}  // namespace
}  // namespace tokamak::cli
