// SPDX-License-Identifier: Apache-2.0
// What `bench moe` and `bench mla` decide without a device: cases, calls, ids, rotation, floors, goals, schema,
// refusals.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench/decode/clocks.h"
#include "cli/bench/decode/logits_data.h"
#include "cli/bench/decode/options.h"
#include "cli/bench/decode/pace.h"
#include "cli/bench/decode/rotation.h"
#include "cli/bench/decode/routing.h"
#include "cli/bench/decode/targets.h"
#include "cli/results.h"
#include "cli/run_tool.h"
#include "tokamak/error.h"

namespace tokamak::cli::bench {
namespace {

using test::run_tool;
using test::ToolResult;

TEST(DecodeCases, EveryShapeOfTheTableInEveryFormatThePublishedOnesFirst) {
    const auto cases = moe_cases({});
    std::set<std::string> shapes;
    std::set<std::string> formats;
    for (const MoeCase& layer : cases) {
        shapes.insert(layer.shape->name);
        formats.insert(layer.format);
        EXPECT_EQ(layer.problem.quantize_activations, layer.format == "fp8_block") << layer.format;
        EXPECT_EQ(layer.problem.max_tokens, 256);
    }
    EXPECT_EQ(shapes, (std::set<std::string>{"kimi-k2-e48", "gpt-oss-120b", "v4-flash-tp4", "qwen3-30b-a3b", "dsv3-tp8",
                                             "qwen3.5-35b", "dsv3-e32"}));
    EXPECT_EQ(formats, (std::set<std::string>{"bf16", "fp8_block", "fp8_block_a16", "int4_g32", "int4_g64", "int4_g128",
                                              "mxfp4", "nvfp4"}));
    EXPECT_EQ(cases.size(), shapes.size() * formats.size());
    const auto published = [](const MoeCase& layer) { return layer.published; };
    EXPECT_EQ(std::count_if(cases.begin(), cases.end(), published), 9) << "the rows of the tables";
    EXPECT_TRUE(std::is_partitioned(cases.begin(), cases.end(), published));
}

TEST(DecodeCases, EveryGoalBelongsToACaseThatIsMeasuredByDefault) {
    const auto calls = moe_calls({}, true);
    int goals = 0;
    for (const MoeCase& layer : moe_cases({})) {
        if (!layer.published) continue;
        for (const DecodeCall& call : calls)
            if (call.routing == Routing::uniform && call.mode == Mode::graph && call.device_tokens == call.tokens)
                goals += moe_target(layer.shape->name, layer.format, call.tokens) ? 1 : 0;
    }
    EXPECT_EQ(goals, 27);
    goals = 0;
    for (const MlaCase& attention : mla_cases({}))
        for (const std::int64_t tokens : DecodeOptions{}.token_counts())
            goals += mla_target(attention.shape->name, to_string(attention.format), tokens) ? 1 : 0;
    EXPECT_EQ(goals, 24);
    EXPECT_FALSE(moe_target("kimi-k2-e48", "mxfp4", 1));
    EXPECT_EQ(moe_target("dsv3-e32", "nvfp4", 64)->must, 240);
    EXPECT_EQ(moe_target("gpt-oss-120b", "mxfp4", 8)->must, 108);
    EXPECT_FALSE(moe_target("dsv3-e32", "fp8_block", 1)->best_public);
    EXPECT_DOUBLE_EQ(host_target(1), 4.5);
}

TEST(DecodeCases, FormatsOfAnotherWidthAreLeftOut) {
    for (const MlaCase& attention : mla_cases({.formats = {"fp8_656", "bf16"}}))
        EXPECT_TRUE(attention.format == KvFormat::bf16 || attention.shape->dim == 576);
    EXPECT_THROW(mla_cases({.shapes = {"v4-h64"}, .formats = {"fp8_656"}}), Error);
    EXPECT_THROW(mla_cases({.shapes = {"v5"}}), Error);
    EXPECT_THROW(moe_cases({.formats = {"int3"}}), Error);
}

TEST(DecodeCalls, PublishedFormatsGetEverythingOthersThreeCounts) {
    const auto calls = moe_calls({}, true);
    const auto has = [&](const DecodeCall& call) { return std::find(calls.begin(), calls.end(), call) != calls.end(); };
    for (const std::int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
        for (const Routing routing : {Routing::uniform, Routing::balanced, Routing::zipf})
            EXPECT_TRUE(has({tokens, tokens, routing, Mode::graph}));
        for (const Mode mode : {Mode::owning, Mode::workspace})
            EXPECT_TRUE(has({tokens, tokens, Routing::uniform, mode}));
    }
    EXPECT_TRUE(has({64, 1, Routing::uniform, Mode::graph}));
    EXPECT_TRUE(has({64, 8, Routing::uniform, Mode::graph}));
    EXPECT_EQ(calls.size(), 9U * 5 + 2);
    EXPECT_EQ(moe_calls({}, false).size(), 3U);
}

TEST(DecodeCalls, WhatIsAskedForIsTakenInAllCombinations) {
    const DecodeOptions options{.tokens = {3, 5}, .routing = {"zipf"}, .modes = {"owning", "graph"}};
    for (const bool published : {true, false}) {
        const auto calls = moe_calls(options, published);
        EXPECT_EQ(calls.size(), 4U);
        for (const DecodeCall& call : calls) EXPECT_EQ(call.routing, Routing::zipf);
    }
    EXPECT_THROW(moe_calls({.routing = {"skewed"}}, true), Error);
    EXPECT_THROW(moe_calls({.modes = {"eager"}}, true), Error);
}

TEST(DecodeFromLogits, BothRoutingMethodsByDefaultOtherShapesByName) {
    const auto counts = [](const DecodeOptions& options) {
        std::map<std::string, std::vector<std::int64_t>> found;
        for (const MoeCase& layer : moe_cases(options))
            if (const auto tokens = from_logits_counts(options, layer); !tokens.empty())
                found[layer.shape->name + " " + layer.format] = tokens;
        return found;
    };
    using Counts = std::map<std::string, std::vector<std::int64_t>>;
    EXPECT_EQ(counts({}), (Counts{{"dsv3-tp8 int4_g32", {1, 8, 64}}, {"qwen3.5-35b fp8_block", {1, 8, 64}}}));
    EXPECT_EQ(moe_shape("dsv3-tp8").routing.method, moe::RouteMethod::sigmoid_grouped);
    EXPECT_EQ(moe_shape("qwen3.5-35b").routing.method, moe::RouteMethod::softmax);
    EXPECT_EQ(counts({.shapes = {"gpt-oss-120b"}, .tokens = {4, 8}}), (Counts{{"gpt-oss-120b mxfp4", {8}}}));
    EXPECT_EQ(counts({.ops = {"fused_moe"}}), Counts{});
    EXPECT_EQ(counts({.modes = {"owning"}}), Counts{});
    EXPECT_EQ(counts({.ops = {"from_logits"}}).size(), 2U);
    EXPECT_EQ(from_logits_target("dsv3-tp8", "int4_g32", 8), 1.5);
    EXPECT_EQ(from_logits_target("dsv3-tp8", "int4_g32", 64), 3.0);
    EXPECT_FALSE(from_logits_target("dsv3-tp8", "int4_g32", 1));
    EXPECT_FALSE(from_logits_target("dsv3-tp8", "mxfp4", 8));
}

TEST(DecodeFromLogits, IdsAreWhatTheShapesRuleChooses) {
    const MoeShape& grouped = moe_shape("dsv3-tp8");
    const RoutedLogits routed = routed_logits(grouped, 64, 5);
    const auto* const ids = routed.ids.as<std::int32_t>();
    std::set<std::int32_t> active;
    for (int t = 0; t < 64; ++t) {
        const std::set<std::int32_t> token(ids + 8 * t, ids + 8 * t + 8);
        std::set<int> groups;
        for (const std::int32_t id : token) groups.insert(id / 32);
        EXPECT_EQ(token.size(), 8U);
        EXPECT_LE(groups.size(), 4U);
        active.insert(token.begin(), token.end());
    }
    EXPECT_NEAR(static_cast<double>(active.size()), 222, 12) << "as many as of uniform routing";
    EXPECT_EQ(routed.weights.view().size(1), 8);
    EXPECT_EQ(OwnedTensor::copy_of(routed.bias).as<float>()[7], routed_logits(grouped, 1, 6).bias.as<float>()[7]);
    EXPECT_NE(routed.logits.as<float>()[0], routed_logits(grouped, 1, 6).logits.as<float>()[0]);
    EXPECT_FALSE(routed_logits(moe_shape("qwen3.5-35b"), 1, 5).bias.view());
    EXPECT_EQ(route_rule(grouped).num_groups, 8);
    EXPECT_EQ(route_rule(grouped).top_groups, 4);
    EXPECT_EQ(route_rule(grouped).routed_scaling_factor, 2.5F);
}

TEST(DecodeRouting, DifferentExpertsInEachTokenAndAPrefixForFewerTokens) {
    for (const Routing routing : {Routing::uniform, Routing::balanced, Routing::zipf}) {
        const auto many = random_routes(routing, 40, 48, 8, 7);
        const auto few = random_routes(routing, 5, 48, 8, 7);
        EXPECT_TRUE(std::equal(few.begin(), few.end(), many.begin())) << to_string(routing);
        EXPECT_NE(many, random_routes(routing, 40, 48, 8, 8));
        for (std::size_t t = 0; t < 40; ++t) {
            const std::set<std::int32_t> token(many.begin() + static_cast<std::ptrdiff_t>(8 * t),
                                               many.begin() + static_cast<std::ptrdiff_t>(8 * t + 8));
            EXPECT_EQ(token.size(), 8U);
            EXPECT_GE(*token.begin(), 0);
            EXPECT_LT(*token.rbegin(), 48);
        }
    }
    EXPECT_THROW(random_routes(Routing::uniform, 1, 4, 5, 1), Error);
}

TEST(DecodeRouting, BalancedUsesAllEquallyAndZipfFew) {
    const auto balanced = random_routes(Routing::balanced, 12, 48, 8, 3);
    for (int expert = 0; expert < 48; ++expert) EXPECT_EQ(std::count(balanced.begin(), balanced.end(), expert), 2);
    EXPECT_EQ(count_active(balanced, 48), 48);
    double uniform_active = 0;
    double zipf_active = 0;
    std::int64_t largest = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        uniform_active += static_cast<double>(count_active(random_routes(Routing::uniform, 32, 256, 8, seed), 256));
        const auto zipf = random_routes(Routing::zipf, 32, 256, 8, seed);
        zipf_active += static_cast<double>(count_active(zipf, 256));
        for (int expert = 0; expert < 256; ++expert)
            largest = std::max<std::int64_t>(largest, std::count(zipf.begin(), zipf.end(), expert));
    }
    // 256 (1 - (1 - 8/256)^32) = 163 are expected.
    EXPECT_NEAR(uniform_active / 20, 163, 8);
    EXPECT_LT(zipf_active, 0.85 * uniform_active);
    EXPECT_GT(largest, 20) << "the most popular expert is in most tokens";
}

TEST(DecodeRouting, ARankGetsItsShareOfTheRoutesHoweverSkewed) {
    for (const Routing routing : {Routing::uniform, Routing::balanced, Routing::zipf})
        for (const int local : {8, 16, 32})
            for (std::uint64_t seed = 1; seed < 6; ++seed) {
                const auto ids = random_routes(routing, 2048, 256, 8, seed, local);
                const double share = 2048.0 * 8 * local / 256;
                EXPECT_NEAR(static_cast<double>(count_routes(ids, local)) / share, 1.0, 0.1)
                    << to_string(routing) << ", " << local << " experts of 256, seed " << seed;
            }
    const auto zipf = random_routes(Routing::zipf, 2048, 256, 8, 3, 32);
    std::vector<std::int64_t> rows(32);
    for (const std::int32_t id : zipf)
        if (id < 32) ++rows[static_cast<std::size_t>(id)];
    EXPECT_GT(*std::max_element(rows.begin(), rows.end()), 5 * 64) << "64 is the mean";
    EXPECT_LT(*std::min_element(rows.begin(), rows.end()), 64 / 3);
    EXPECT_EQ(random_routes(Routing::zipf, 9, 48, 8, 7, 48), random_routes(Routing::zipf, 9, 48, 8, 7));
}

TEST(DecodeRotation, TouchesThreeTimesTheCacheOrAllThereIs) {
    constexpr std::size_t l2 = 60'000'000;
    for (const double bytes : {1e6, 2e7, 2e8, 2e9}) {
        const int calls = calls_per_replay(bytes, bytes / 4.6e6, l2, 1000);
        EXPECT_GT(calls * bytes, kColdFactor * l2) << bytes;
        EXPECT_GE(calls, bytes < 1e9 ? 8 : 2) << bytes;
    }
    EXPECT_EQ(calls_per_replay(1e6, 2, l2, 32), 32);
    EXPECT_EQ(calls_per_replay(2e9, 430, l2, 3), 3);
    EXPECT_LE(calls_per_replay(2e9, 430, l2, 32), 8) << "long calls are not repeated needlessly";
    EXPECT_EQ(replays_for(1), 25);
    EXPECT_EQ(replays_for(1e6), 5);
    EXPECT_EQ(replays_for(200), 20);
    EXPECT_EQ(calls_per_replay(7e8, 2120, l2, 4), 2) << "a replay of many tokens leaves the clock as it was";
    EXPECT_EQ(calls_per_replay(7e8, 1000, l2, 32), 3);
}

TEST(DecodePace, RestIsOwedForWorkUpToALimit) {
    Pace pace;
    EXPECT_DOUBLE_EQ(pace.due(1e6), kMostRestMs) << "what ran before is not known";
    pace.worked(1e6, 0);
    EXPECT_DOUBLE_EQ(pace.due(1e6 + 1), kMostRestMs - 1);
    EXPECT_DOUBLE_EQ(pace.due(2e6), 0);
    pace.worked(2e6, 10);
    EXPECT_DOUBLE_EQ(pace.due(2e6), 10 * kRestFactor);
    EXPECT_DOUBLE_EQ(pace.due(2e6 + 12), 10 * kRestFactor - 12);
    pace.worked(2e6 + 14, 2);
    EXPECT_DOUBLE_EQ(pace.due(2e6 + 14), 10 * kRestFactor - 12 + 2 * kRestFactor) << "no rest while it worked";
    pace.worked(3e6, 1000);
    EXPECT_DOUBLE_EQ(pace.due(3e6), kMostRestMs);
}

TEST(DecodeClocks, MeanOverMultiprocessorsThatBothStampsSaw) {
    const std::vector<ClockStamp> begin = {{0, 1000, 100}, {1, 5000, 100}, {2, 9, 110}, {7, 0, 100}};
    const std::vector<ClockStamp> end = {{2, 9 + 1750, 1110}, {0, 1000 + 1700, 1100}, {1, 5000 + 1800, 1100}};
    EXPECT_DOUBLE_EQ(mean_mhz(begin, end), 1750);
    EXPECT_EQ(mean_mhz(begin, {}), 0);
    EXPECT_EQ(mean_mhz(begin, begin), 0) << "no time between";
}

TEST(DecodeFloors, InterpolateBetweenMeasuredSizes) {
    const FloorCurve curve({{2'000'000, 2.0, "a"}, {4'000'000, 3.0, "a"}, {100'000'000, 25.0, "b"}}, 4000);
    EXPECT_DOUBLE_EQ(curve.us(1), 2.0);
    EXPECT_DOUBLE_EQ(curve.us(2e6), 2.0);
    EXPECT_DOUBLE_EQ(curve.us(3e6), 2.5);
    EXPECT_DOUBLE_EQ(curve.us(100e6), 25.0);
    EXPECT_DOUBLE_EQ(curve.us(140e6), 35.0);
    EXPECT_THROW(FloorCurve({}, 4000), Error);
}

TEST(DecodeResults, RowsHaveTheDocumentedSchema) {
    Results results;
    results.benchmark = "moe_decode";
    results.device = "a GPU";
    ResultRow row;
    row.op = "fused_moe";
    row.tokens = 64;
    row.timing.median = 200;
    row.decode = DecodeFacts{.source = "heuristic", .device_tokens = 8, .floor_us = 50, .must_us = 330.0};
    results.rows.push_back(row);
    results.refused.push_back({"fused_moe", "dsv3-e32", "nvfp4", "no kernel"});
    results.host.push_back({"fused_moe", "dsv3-e32", "bf16", 8, {3, 2, 4, 64}, 1, 2.5, 4.5});
    const auto json = to_json(results);
    EXPECT_EQ(json.at("benchmark"), "moe_decode");
    for (const char* key : {"tokamak", "commit", "cuda_sources", "device", "ceilings", "read_floors"})
        EXPECT_TRUE(json.contains(key)) << key;
    const auto& got = json.at("rows").at(0);
    EXPECT_EQ(got.at("tokens"), 64);
    EXPECT_EQ(got.at("device_tokens"), 8);
    EXPECT_EQ(got.at("source"), "heuristic");
    EXPECT_DOUBLE_EQ(got.at("floor_share"), 0.25);
    EXPECT_DOUBLE_EQ(got.at("must_us"), 330);
    for (const char* key : {"aim_us", "best_public_us", "best_public", "launches"})
        EXPECT_TRUE(got.at(key).is_null()) << key;
    EXPECT_EQ(got.at("correct"), true);
    EXPECT_EQ(json.at("refused").at(0).at("reason"), "no kernel");
    EXPECT_DOUBLE_EQ(json.at("host").at(0).at("must_us"), 4.5);
}

TEST(DecodeResults, LayersFromLogitsStandApartFromTheRows) {
    Results results;
    results.benchmark = "moe_decode";
    EXPECT_FALSE(to_json(results).contains("from_logits"));
    results.from_logits.push_back({.op = "fused_moe",
                                   .shape = "dsv3-tp8",
                                   .format = "int4_g32",
                                   .tokens = 8,
                                   .max_tokens = 256,
                                   .method = "sigmoid_grouped",
                                   .us = 58.4,
                                   .us_from_ids = 57,
                                   .more_us = 1.4,
                                   .must_us = 1.5});
    results.from_logits.push_back({.tokens = 1});
    const auto json = to_json(results);
    EXPECT_TRUE(json.at("rows").empty());
    const auto& cost = json.at("from_logits").at(0);
    EXPECT_DOUBLE_EQ(cost.at("more_us"), 1.4);
    EXPECT_DOUBLE_EQ(cost.at("must_us"), 1.5);
    EXPECT_EQ(cost.at("method"), "sigmoid_grouped");
    EXPECT_EQ(cost.at("max_tokens"), 256);
    EXPECT_EQ(cost.at("correct"), true);
    EXPECT_TRUE(json.at("from_logits").at(1).at("must_us").is_null());
}

TEST(DecodeResults, TextIsTheSameDocumentWithALineForEachRow) {
    Results results;
    results.benchmark = "mla_decode";
    results.rows.resize(3);
    results.rows[1].timing.median = 12.3456789;
    results.rows[2].max_error = std::nan("");
    const auto json = to_json(results);
    const std::string text = to_text(json);
    const auto parsed = nlohmann::json::parse(text);
    EXPECT_EQ(parsed.at("rows").size(), 3U);
    EXPECT_DOUBLE_EQ(parsed.at("rows").at(1).at("us_median"), 12.3457);
    EXPECT_TRUE(parsed.at("rows").at(2).at("max_error").is_null());
    for (const auto& [key, value] : json.items()) EXPECT_TRUE(parsed.contains(key)) << key;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), static_cast<std::ptrdiff_t>(json.size()) + 2 + 3);
}

TEST(DecodeCommand, RefusesWhatItDoesNotKnowAndMachinesWithoutAGpu) {
    const std::vector<std::pair<std::vector<std::string>, std::string>> calls = {
        {{"bench", "moe", "--shapes", "kimi"}, "unknown MoE shape 'kimi'"},
        {{"bench", "moe", "--formats", "int3"}, "int3"},
        {{"bench", "moe", "--routing", "skewed"}, "unknown routing 'skewed'"},
        {{"bench", "moe", "--modes", "eager"}, "unknown mode 'eager'"},
        {{"bench", "moe", "--ops", "route"}, "unknown operator 'route'"},
        {{"bench", "moe", "--device", "cpu"}, "--device cpu"},
        {{"bench", "moe", "--device", "cuda:99"}, "cuda:99"},
        {{"bench", "mla", "--device", "cuda:99"}, "cuda:99"},
        {{"bench", "mla", "--formats", "fp8_655"}, "fp8_655"},
        {{"bench", "mla", "--modes", "eager"}, "unknown mode 'eager'"},
        {{"bench", "mla", "--shapes", "v32"}, "unknown MLA shape 'v32'"},
    };
    for (const auto& [arguments, part] : calls) {
        const ToolResult result = run_tool(arguments);
        EXPECT_EQ(result.status, 2) << part;
        EXPECT_NE(result.error.find(part), std::string::npos) << result.error << " lacks " << part;
    }
}

}  // namespace
}  // namespace tokamak::cli::bench
