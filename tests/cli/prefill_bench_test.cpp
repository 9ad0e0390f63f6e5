// SPDX-License-Identifier: Apache-2.0
// What `bench moe --preset prefill` decides without a device: cases, calls, goals, schema, spreads, rises.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench/decode/options.h"
#include "cli/bench/decode/targets.h"
#include "cli/report/html.h"
#include "cli/results.h"
#include "cli/run_tool.h"

namespace tokamak::cli::bench {
namespace {

DecodeOptions prefill() {
    DecodeOptions options;
    options.prefill = true;
    return options;
}

TEST(PrefillCases, ShapesAndFormatsForManyTokens) {
    std::set<std::string> names;
    for (const MoeCase& layer : prefill_cases(prefill())) {
        names.insert(layer.shape->name + " " + layer.format);
        EXPECT_EQ(layer.problem.max_tokens, 32768);
        EXPECT_EQ(layer.problem.quantize_activations, layer.format == "fp8_block" || layer.format.ends_with("_a8"));
        if (layer.shape->name == "dsv3-ep8") {
            EXPECT_EQ(layer.problem.num_experts, 256);
            EXPECT_EQ(layer.problem.num_local_experts, 32);
        }
    }
    std::set<std::string> expected = {"gpt-oss-120b mxfp4", "gpt-oss-120b mxfp4_a8", "qwen3-30b-a3b bf16",
                                      "dsv3-ep8 int4_g32_a8", "dsv3-ep8 mxfp4_a8"};
    for (const char* shape : {"dsv3-ep8", "dsv3-ep16"})
        for (const char* format : {"int4_g32", "nvfp4", "bf16", "fp8_block"})
            expected.insert(std::string(shape) + " " + format);
    EXPECT_EQ(names, expected);
}

TEST(PrefillCalls, EveryCountWithEveryRoutingAndTheEagerModesWithTheFirst) {
    const auto calls = prefill_calls(prefill());
    const auto has = [&](const DecodeCall& call) { return std::find(calls.begin(), calls.end(), call) != calls.end(); };
    for (const std::int64_t tokens : {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}) {
        for (const Routing routing : {Routing::uniform, Routing::balanced, Routing::zipf})
            EXPECT_TRUE(has({tokens, tokens, routing, Mode::graph})) << tokens;
        EXPECT_TRUE(has({tokens, tokens, Routing::uniform, Mode::owning}));
        EXPECT_TRUE(has({tokens, tokens, Routing::uniform, Mode::workspace}));
    }
    EXPECT_EQ(calls.size(), 50U);
}

TEST(PrefillCases, EveryGoalBelongsToACase) {
    int goals = 0;
    for (const MoeCase& layer : prefill_cases(prefill()))
        for (const std::int64_t tokens : prefill().token_counts())
            goals += prefill_target(layer.shape->name, layer.format, tokens) ? 1 : 0;
    EXPECT_EQ(goals, 30);
    EXPECT_EQ(prefill_target("dsv3-ep8", "mxfp4_a8", 16384)->aim, 1500);
    EXPECT_EQ(prefill_target("dsv3-ep8", "fp8_block", 16384)->must, 1520);
    EXPECT_FALSE(prefill_target("dsv3-ep16", "bf16", 16384));
}

TEST(PrefillResults, RowsHaveRatesAndTheDocumentRepeatsAndRises) {
    Results results;
    results.benchmark = "moe_prefill";
    ResultRow row;
    row.op = "fused_moe";
    row.shape = "dsv3-ep8";
    row.format = "bf16";
    row.tokens = 16384;
    row.timing.median = 2400;
    row.decode = DecodeFacts{.source = "shipped", .device_tokens = 16384, .floor_us = 2120};
    row.decode->tflops = 600;
    row.decode->matrix_share = 0.88;
    results.rows.push_back(row);
    results.repeats.push_back({"fused_moe", "dsv3-ep8", "bf16", 16384, "wide_n160", {2400, 2424, 2412}});
    const auto json = to_json(results);
    const auto& got = json.at("rows").at(0);
    for (const char* key : {"op", "shape", "format", "tokens", "routing", "mode", "variant", "default", "us_median",
                            "us_p10", "us_p90", "bytes", "tflops", "floor_us", "floor_share"})
        EXPECT_TRUE(got.contains(key)) << key;
    EXPECT_EQ(got.at("default"), true);
    EXPECT_DOUBLE_EQ(got.at("matrix_share"), 0.88);
    EXPECT_NEAR(json.at("repeats").at(0).at("spread").get<double>(), 0.01, 1e-9);
    EXPECT_TRUE(json.at("rises").empty());
    EXPECT_NE(report::html_report(report::read_results(json, "moe_prefill.json")).find("dsv3-ep8"), std::string::npos);
    EXPECT_EQ(Repeat{}.spread(), 0);
}

TEST(PrefillResults, RowsSayAtWhichClockTheyWereTimedAndWhatTheyTakeWithoutRests) {
    Results results;
    results.benchmark = "moe_prefill";
    results.rows.resize(2);
    results.rows[0].decode = DecodeFacts{.sm_mhz = 1740, .sustained_us = 2700, .sustained_mhz = 1450};
    results.rows[1].decode = DecodeFacts{};
    const auto rows = to_json(results).at("rows");
    EXPECT_EQ(rows[0].at("sm_mhz"), 1740);
    EXPECT_EQ(rows[0].at("sustained_us"), 2700);
    EXPECT_EQ(rows[0].at("sustained_mhz"), 1450);
    EXPECT_TRUE(rows[1].at("sm_mhz").is_null());
    EXPECT_FALSE(rows[1].contains("sustained_us"));
}

TEST(PrefillResults, ClearingMayTakeAPercentOrAMicrosecond) {
    EXPECT_DOUBLE_EQ(ClearingCost{.us_without = 800}.allowed(), 0.01);
    EXPECT_DOUBLE_EQ(ClearingCost{.us_without = 50}.allowed(), 0.02);
    Results results;
    results.benchmark = "moe_prefill";
    EXPECT_FALSE(to_json(results).contains("clearing"));
    results.clearing.push_back({.shape = "dsv3-ep8", .rows = 128, .us = 804, .us_without = 800, .more = 0.005});
    const auto cost = to_json(results).at("clearing").at(0);
    EXPECT_EQ(cost.at("rows"), 128);
    EXPECT_EQ(cost.at("more"), 0.005);
    EXPECT_EQ(cost.at("allowed"), 0.01);
}

TEST(PrefillResults, ATokenThatTakesLongerThanWithFewerIsARise) {
    std::vector<ResultRow> rows(4);
    const double times[] = {100, 180, 400, 50};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i].op = "fused_moe";
        rows[i].mode = "graph";
        rows[i].routing = i == 3 ? "zipf" : "uniform";
        rows[i].tokens = i == 3 ? 64 : std::int64_t{64} << i;
        rows[i].timing.median = times[i];
    }
    const auto rises = rises_of(rows, 0.02);
    ASSERT_EQ(rises.size(), 1U);
    EXPECT_EQ(rises[0].before, 128);
    EXPECT_EQ(rises[0].tokens, 256);
    EXPECT_NEAR(rises[0].rise, 400.0 / 256 / (180.0 / 128) - 1, 1e-12);
    EXPECT_TRUE(rises_of(rows, 0.2).empty());
}

TEST(PrefillCommand, NamesAreCheckedBeforeADeviceIsAskedFor) {
    const auto refused = [](const std::vector<std::string>& arguments, const std::string& text) {
        const test::ToolResult result = test::run_tool(arguments);
        EXPECT_EQ(result.status, 2);
        EXPECT_NE(result.error.find(text), std::string::npos) << result.error;
    };
    refused({"bench", "moe", "--preset", "prefill", "--shapes", "kimi"}, "unknown MoE shape 'kimi'");
    refused({"bench", "moe", "--preset", "prefill", "--routing", "skewed"}, "unknown routing 'skewed'");
    refused({"bench", "moe", "--preset", "training"}, "--preset");
    refused({"bench", "moe", "--preset", "prefill", "--device", "cuda:99"}, "cuda:99");
}

}  // namespace
}  // namespace tokamak::cli::bench
