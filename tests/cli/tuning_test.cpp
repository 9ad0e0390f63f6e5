// SPDX-License-Identifier: Apache-2.0
// `tokamak tune moe` and `tune mla` on the CPU's variants, first contact in child processes, and the judge of
// `bench tuning`.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_tool.h"
#include "cli/tuning/judge.h"
#include "cli/tuning/options.h"
#include "cli/tuning/probe.h"
#include "core/environment.h"
#include "support/expect_error.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"

namespace tokamak::cli::tuning {
namespace {

using test::expect_error;
using test::run_tool;
using test::ToolResult;

const std::vector<std::string> kSmallMoe = {"--device",     "cpu", "--hidden", "128", "--intermediate", "64",
                                            "--experts",    "8",   "--top-k",  "2",   "--formats",      "int4_g32",
                                            "--max-tokens", "4"};

std::vector<std::string> with(std::vector<std::string> first, const std::vector<std::string>& more) {
    first.insert(first.end(), more.begin(), more.end());
    return first;
}

TuneOptions moe_options() {
    TuneOptions options;
    options.op = "moe";
    return options;
}

TEST(TuneCases, ThePublishedFormatsOfEveryShapeWithoutAnyOption) {
    const auto cases = tune_cases(moe_options());
    EXPECT_EQ(cases.size(), 9U);
    for (const TuneCase& one : cases) EXPECT_EQ(one.moe.max_tokens, 256);
    EXPECT_EQ(cases[0].moe.quantize_activations, false);
    TuneOptions mla;
    mla.op = "mla";
    for (const TuneCase& one : tune_cases(mla)) EXPECT_EQ(one.op, "sparse_attention");
}

TEST(TuneCases, ExpertParallelRanksHoldTheirShareOfTheExperts) {
    TuneOptions options = moe_options();
    options.shapes = {"dsv3-tp8"};
    options.ep = 16;
    const TuneCase one = tune_cases(options).at(0);
    EXPECT_EQ(one.moe.num_experts, 256);
    EXPECT_EQ(one.moe.num_local_experts, 16);
    EXPECT_EQ(one.shape, "dsv3-tp8/ep16");
    options.ep = 3;
    expect_error([&] { (void)tune_cases(options); }, "--ep is 3, expected a divisor of the 256 experts");
}

TEST(TuneCases, GivenSizesNeedAllOfThem) {
    TuneOptions options = moe_options();
    options.sizes = {{"hidden", 256}, {"intermediate", 128}, {"experts", 8}};
    expect_error([&] { (void)tune_cases(options); }, "need --formats");
    options.formats = {"mxfp4"};
    expect_error([&] { (void)tune_cases(options); }, "give --top-k");
    options.sizes["top-k"] = 2;
    EXPECT_EQ(tune_cases(options).at(0).moe.intermediate, 128);
    options.formats = {"nvfp4"};
    EXPECT_EQ(tune_cases(options).front().moe.weights, WeightSpec::nvfp4());
}

TEST(TuneCases, AChildGetsTheSameCase) {
    TuneOptions options = moe_options();
    options.sizes = {{"hidden", 256}, {"intermediate", 128}, {"experts", 8}, {"top-k", 2}};
    options.formats = {"mxfp4", "bf16"};
    options.tokens = {8, 1};
    const auto cases = tune_cases(options);
    const auto arguments = probe_arguments(options, cases.at(1), "some.journal");
    const auto follows = [&](const std::string& name, const std::string& value) {
        const auto found = std::find(arguments.begin(), arguments.end(), name);
        return found != arguments.end() && found + 1 != arguments.end() && found[1] == value;
    };
    EXPECT_EQ(arguments[1], "moe");
    EXPECT_TRUE(follows("--formats", "bf16"));
    EXPECT_TRUE(follows("--tokens", "1,8"));
    EXPECT_TRUE(follows("--top-k", "2"));
    EXPECT_TRUE(follows("--probe", "some.journal"));
}

TEST(Journal, SaysWhatEndedWellWhatFailedAndWhatWasBegun) {
    const Verdicts verdicts =
        read_journal("begin a\nend a\t\nbegin b\nend b\twrote behind its output\nbegin c\n", "crashed");
    EXPECT_EQ(verdicts, (Verdicts{{"a", ""}, {"b", "wrote behind its output"}, {"c", "crashed"}}));
    EXPECT_TRUE(read_journal("", "crashed").empty());
}

TEST(FirstContact, ACrashCostsOneCandidateAndTheNextProcessGoesOn) {
    const test::TemporaryFolder folder;
    const std::string journal = folder.file("journal");
    // Each process begins one candidate; the second crashes in it, the fourth ends well.
    const std::string script = R"(
        n=$(grep -c begin "$0"); n=$((n + 1))
        [ $n -le 3 ] || exit 0
        echo "begin v$n" >> "$0"
        [ $n -ne 2 ] || kill -SEGV $$
        printf 'end v%s\t\n' $n >> "$0"
        exit 1)";
    folder.write("journal", "");
    const Verdicts verdicts = probe_in_child("/bin/sh", {"-c", script, journal}, journal, 60, 5);
    EXPECT_EQ(verdicts, (Verdicts{{"v1", ""}, {"v2", "crashed: signal 11 (Segmentation fault)"}, {"v3", ""}}));
}

TEST(FirstContact, AProcessThatDoesNotGetToACandidateIsAnError) {
    const test::TemporaryFolder folder;
    const std::string journal = folder.write("journal", "");
    expect_error(
        [&] {
            (void)probe_in_child("/bin/sh", {"-c", "echo no memory; exit 2"}, journal, 60, 5);
        },
        "failed before any: exit status 2: no memory", ErrorCode::io);
}

TEST(FirstContact, HereEachVariantIsProbedOnceAndExceptionsAreVerdicts) {
    const test::TemporaryFolder folder;
    const std::string journal = folder.write("journal", "begin a\nend a\tcrashed\n");
    std::vector<std::string> probed;
    probe_here({"a", "b", "c"}, journal, 60, [&](const std::string& variant, const std::function<void()>& alive) {
        alive();
        probed.push_back(variant);
        if (variant == "c") throw Error(ErrorCode::internal, "wrote\nbehind");
    });
    EXPECT_EQ(probed, (std::vector<std::string>{"b", "c"}));
    EXPECT_EQ(read_journal(test::read_file(journal), "?"),
              (Verdicts{{"a", "crashed"}, {"b", ""}, {"c", "wrote behind"}}));
}

TEST(TuneTool, TunesAWholeLayerAndPlansTakeTheWinners) {
    const test::TemporaryFolder folder;
    const std::string store = folder.file("store.json");
    const std::string json = folder.file("tuning.json");
    const std::string page = folder.file("tuning.html");
    const ToolResult result =
        run_tool(with({"tune", "moe"}, with(kSmallMoe, {"--store", store, "--out", json, "--report", page})));
    ASSERT_EQ(result.status, 0) << result.error;
    EXPECT_NE(result.out.find("given-sizes"), std::string::npos) << result.out;
    const auto document = nlohmann::json::parse(test::read_file(json));
    EXPECT_EQ(document["benchmark"], "tuning");
    EXPECT_EQ(document["rows"].size(), 6U) << "two variants at 1, 2 and 4 tokens";
    EXPECT_TRUE(document["failed"].empty());
    EXPECT_NE(test::read_file(page).find("</html>"), std::string::npos);
    const test::ScopedVariable variable(environment::kConfigStore, store);
    const ToolResult explained = run_tool({"explain", "moe", "--hidden", "128", "--intermediate", "64", "--experts",
                                           "8", "--top-k", "2", "--format", "int4_g32", "--max-tokens", "8"});
    EXPECT_NE(explained.out.find("(tuned at 4"), std::string::npos) << explained.out;
    EXPECT_NE(explained.out.find("(tuned at 4, extrapolated"), std::string::npos) << explained.out;
}

TEST(TuneTool, AStoreThatIsNoneIsRefusedBeforeAnythingIsTunedAndKept) {
    const test::TemporaryFolder folder;
    const std::string store = folder.write("notes.txt", "my notes\n");
    const std::string json = folder.file("tuning.json");
    const ToolResult result = run_tool(with({"tune", "moe"}, with(kSmallMoe, {"--store", store, "--out", json})));
    EXPECT_NE(result.status, 0);
    EXPECT_NE(result.error.find("notes.txt: not a Tokamak configuration store"), std::string::npos) << result.error;
    EXPECT_EQ(test::read_file(store), "my notes\n");
    EXPECT_FALSE(std::filesystem::exists(json));
}

TEST(TuneTool, TunesExpertParallelRanksWithMixedRouting) {
    const ToolResult result =
        run_tool(with({"tune", "moe"}, with(kSmallMoe, {"--ep", "4", "--routing", "zipf,balanced", "--no-isolation"})));
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_NE(result.out.find("given-sizes/ep4"), std::string::npos) << result.out;
}

TEST(TuneTool, TunesSparseAttention) {
    const ToolResult result =
        run_tool({"tune", "mla", "--device", "cpu", "--heads", "2", "--dim", "576", "--value-dim", "512", "--top-k",
                  "16", "--formats", "fp8_656", "--tokens", "1,3", "--memory", "2000000"});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_NE(result.out.find("fp8_656"), std::string::npos) << result.out;
}

TEST(TuneTool, RefusesWhatItDoesNotKnowBeforeADeviceIsAskedFor) {
    const auto refused = [](const std::vector<std::string>& arguments, const std::string& text) {
        const ToolResult result = run_tool(arguments);
        EXPECT_EQ(result.status, 2);
        EXPECT_NE(result.error.find(text), std::string::npos) << result.error;
    };
    refused({"tune", "moe", "--shapes", "gpt-5"}, "unknown MoE shape 'gpt-5'");
    refused({"tune", "moe", "--routing", "skewed"}, "unknown routing 'skewed'");
    refused({"tune", "moe", "--tokens", "0"}, "--tokens");
    refused({"tune", "mla", "--shapes", "v4-h64", "--formats", "fp8_656"}, "none of these formats");
    refused({"bench", "tuning", "--ops", "conv"}, "unknown operator 'conv'");
}

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
    EXPECT_FALSE(verdict_of({}).good());
}

}  // namespace
}  // namespace tokamak::cli::tuning
