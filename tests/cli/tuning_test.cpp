// SPDX-License-Identifier: Apache-2.0
// `tokamak tune moe` and `tune mla` on the CPU's variants, and first contact in child processes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/run_tool.h"
#include "cli/tuning/options.h"
#include "cli/tuning/probe.h"
#include "core/environment.h"
#include "formats/packed_checkpoint.h"
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

/// Rows of these counts: others may have one between them.
int rows_at(const nlohmann::json& document, const std::set<std::int64_t>& counts) {
    int rows = 0;
    for (const auto& row : document["rows"]) rows += counts.count(row["tokens"].get<std::int64_t>()) > 0 ? 1 : 0;
    return rows;
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

TEST(TuneCases, ANameMayCarryItsFormatAndASliceKnowsItsRank) {
    TuneOptions options = moe_options();
    options.shapes = {"dsv3-ep8:nvfp4", "qwen3-30b-a3b"};
    const auto cases = tune_cases(options);
    ASSERT_EQ(cases.size(), 3U);
    EXPECT_EQ(cases[0].moe.num_experts, 256);
    EXPECT_EQ(cases[0].moe.num_local_experts, 32);
    EXPECT_EQ(cases[0].format, "nvfp4");
    options.ep = 2;
    expect_error([&] { (void)tune_cases(options); }, "dsv3-ep8 is a rank's part already");
    options.ep = 1;
    options.shapes = {"dsv3-ep8:mxfp4_a8", "dsv3-ep8:mxfp4", "dsv3-ep8:fp8_block", "dsv3-ep8:fp8_block_a16"};
    for (const TuneCase& one : tune_cases(options))
        EXPECT_EQ(one.moe.quantize_activations, one.format == "mxfp4_a8" || one.format == "fp8_block") << one.format;
}

TEST(TuneCases, EverythingIsWhatTheBenchmarksNameEachProblemOnce) {
    const auto groups = tune_groups("all", {});
    ASSERT_EQ(groups.size(), 3U);
    std::set<std::string> seen;
    std::int64_t largest = 0;
    for (const TuneOptions& group : groups)
        for (const TuneCase& one : tune_cases(group)) {
            EXPECT_TRUE(seen.insert(one.op + one.shape + one.format).second) << one.shape << " " << one.format;
            largest = std::max(largest, group.buckets().back());
        }
    EXPECT_EQ(largest, kManyTokens);
    for (const char* name :
         {"fused_moedsv3-ep8int4_g32", "fused_moedsv3-ep16fp8_block", "fused_moegpt-oss-120bmxfp4",
          "fused_moeqwen3-30b-a3bbf16", "fused_moekimi-k2-e48int4_g32", "sparse_attentionv4-h64fp8_584"})
        EXPECT_EQ(seen.count(name), 1U) << name;
    EXPECT_EQ(tune_groups("moe", {}).size(), 2U);
    EXPECT_EQ(tune_groups("mla", {}).size(), 1U);
    EXPECT_EQ(tune_groups("moe", {.shapes = {"dsv3-tp8"}}).size(), 1U);
}

TEST(TuneCases, BucketsOfManyTokensDouble) {
    TuneOptions options = moe_options();
    options.max_tokens = 3000;
    options.doubling = true;
    EXPECT_EQ(options.buckets(), (std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3000}));
}

/// A checkpoint with layers 3 and 11 alike.
TuneOptions checkpoint_options(const test::ShardedCheckpoint& checkpoint) {
    TuneOptions options = moe_options();
    options.checkpoint = checkpoint.folder().path();
    return options;
}

TEST(TuneCheckpoint, SizesComeFromTheTensorsAndTheRestFromTheConfiguration) {
    for (const auto& kind : test::layouts_to_pack()) {
        SCOPED_TRACE(to_string(kind.layout));
        const test::ShardedCheckpoint checkpoint(kind);
        TuneOptions options = checkpoint_options(checkpoint);
        expect_error([&] { (void)tune_cases(options); }, "give --top-k");
        checkpoint.folder().write("config.json", R"({"text_config": {"num_experts_per_tok": 2}})");
        const auto cases = tune_cases(options);
        ASSERT_EQ(cases.size(), 1U) << "both layers are the same problem";
        EXPECT_EQ(cases[0].moe.num_experts, kind.experts);
        EXPECT_EQ(cases[0].moe.hidden, kind.hidden);
        EXPECT_EQ(cases[0].moe.intermediate, kind.intermediate);
        EXPECT_EQ(cases[0].moe.top_k, 2);
        const bool gpt_oss = kind.layout == CheckpointLayout::gpt_oss;
        EXPECT_EQ(cases[0].moe.activation.kind, gpt_oss ? moe::ActivationKind::gpt_oss : moe::ActivationKind::swiglu);
        EXPECT_EQ(cases[0].moe_shape->biases, gpt_oss);
        const std::vector<std::string> named = {
            "--checkpoint", checkpoint.folder().path(), "--layer", "3", "--top-k", "2"};
        EXPECT_EQ(cases[0].named, named) << "by which a child finds it";
        options.layer = 11;
        options.ep = 3;
        EXPECT_EQ(tune_cases(options).at(0).moe.num_local_experts, 1);
    }
}

TEST(TuneCheckpoint, WhatContradictsItIsRefused) {
    const test::ShardedCheckpoint checkpoint(test::layouts_to_pack()[3]);
    TuneOptions options = checkpoint_options(checkpoint);
    options.sizes = {{"top-k", 2}};
    EXPECT_EQ(tune_cases(options).size(), 1U);
    options.layer = 5;
    expect_error([&] { (void)tune_cases(options); }, "no experts of layer 5", ErrorCode::parse);
    options.layer = -1;
    options.sizes["hidden"] = 64;
    expect_error([&] { (void)tune_cases(options); }, "--hidden contradicts --checkpoint");
    options.sizes.erase("hidden");
    options.shapes = {"dsv3-tp8"};
    expect_error([&] { (void)tune_cases(options); }, "not both");
    options.shapes.clear();
    checkpoint.folder().write("config.json", "[1]");
    expect_error([&] { (void)tune_cases(options); }, "config.json: not a JSON object", ErrorCode::parse);
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
    expect_error([&] { (void)tune_cases(options); }, "--formats is empty");
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
        return variant == "b" ? std::int64_t{256} : std::int64_t{0};
    });
    EXPECT_EQ(probed, (std::vector<std::string>{"b", "c"}));
    EXPECT_EQ(read_journal(test::read_file(journal), "?"),
              (Verdicts{{"a", "crashed"}, {"b", ""}, {"c", "wrote behind"}}));
    EXPECT_EQ(read_limits(test::read_file(journal)), (Limits{{"b", 256}})) << "given up as far too slow";
}

TEST(TuneTool, TunesAWholeLayerAndPlansTakeTheWinners) {
    const test::TemporaryFolder folder;
    const std::string store = folder.file("store.json");
    const std::string json = folder.file("tuning.json");
    const std::string page = folder.file("tuning.html");
    // On a busy machine candidates seem to hang, or to be far behind: by this clock none is.
    const ToolResult result = run_tool(with({"tune", "moe", "--clock-step", "1e-3", "--candidate-seconds", "300"},
                                            with(kSmallMoe, {"--store", store, "--out", json, "--report", page})));
    ASSERT_EQ(result.status, 0) << result.error;
    EXPECT_NE(result.out.find("given-sizes"), std::string::npos) << result.out;
    const auto document = nlohmann::json::parse(test::read_file(json));
    EXPECT_EQ(document["benchmark"], "tuning");
    EXPECT_EQ(rows_at(document, {1, 2, 4}), 6) << "two variants each";
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

TEST(TuneTool, TunesTheLayersOfACheckpoint) {
    const test::ShardedCheckpoint checkpoint(test::layouts_to_pack()[0]);
    checkpoint.folder().write("config.json", R"({"num_experts_per_tok": 2})");
    const std::string json = checkpoint.folder().file("tuning.json");
    const ToolResult result =
        run_tool({"tune", "moe", "--device", "cpu", "--checkpoint", checkpoint.folder().path(), "--ep", "3", "--tokens",
                  "1,4", "--routing", "uniform,balanced,zipf", "--out", json});
    ASSERT_EQ(result.status, 0) << result.error;
    const auto document = nlohmann::json::parse(test::read_file(json));
    EXPECT_EQ(rows_at(document, {1, 4}), 4);
    EXPECT_EQ(document["cases"].size(), 1U);
    EXPECT_NE(document["cases"][0]["problem"].get<std::string>().find("experts=1/3"), std::string::npos);
    EXPECT_EQ(document["rows"][0]["format"], "mxfp4");
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
    refused({"tune", "moe", "--shapes", "gpt-5"}, "tune moe: --shapes: unknown MoE shape 'gpt-5'");
    refused({"tune", "moe", "--shapes", "dsv3-ep8:int3"}, "tune moe: --shapes: weight format: \"int3\"");
    refused({"tune", "mla", "--formats", "int3"}, "tune mla: --formats: kv_format: unknown format \"int3\"");
    refused({"tune", "moe", "--routing", "skewed"}, "tune moe: --routing: unknown routing 'skewed'");
    refused({"tune", "moe", "--tokens", "0"}, "--tokens");
    refused({"tune", "mla", "--shapes", "v4-h64", "--formats", "fp8_656"},
            "--formats is fp8_656, expected formats whose rows");
    refused({"bench", "tuning", "--ops", "conv"}, "unknown operator 'conv'");
}

}  // namespace
}  // namespace tokamak::cli::tuning
