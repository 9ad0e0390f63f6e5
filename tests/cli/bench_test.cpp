// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench/checkpoint_layer.h"
#include "cli/run_tool.h"
#include "formats/synthetic.h"
#include "tokamak/error.h"

namespace tokamak::test {
namespace {

using nlohmann::json;

void expect_row(const json& row) {
    for (const char* key : {"op", "shape", "format", "routing", "mode", "variant"})
        EXPECT_FALSE(row.at(key).get<std::string>().empty()) << key;
    for (const char* key : {"us_median", "us_p10", "us_p90", "bytes", "flops"})
        EXPECT_GT(row.at(key).get<double>(), 0) << key;
    EXPECT_LE(row.at("us_p10").get<double>(), row.at("us_median").get<double>());
    EXPECT_LE(row.at("us_median").get<double>(), row.at("us_p90").get<double>());
    EXPECT_TRUE(row.at("ceiling_share").is_null());
    EXPECT_LT(row.at("max_error").get<double>(), 0.01);
    EXPECT_GT(row.at("max_error").get<double>(), 0) << "bf16 results cannot equal the oracle's";
}

TEST(Bench, the_preset_covers_every_format_and_mode_and_writes_the_schema) {
    const TemporaryFolder folder;
    const ToolResult result =
        run_tool({"bench", "--preset", "decode", "--quick", "--tokens", "1,20", "--json", folder.file("result.json")});
    ASSERT_EQ(result.status, 0) << result.out << result.error;
    const json document = json::parse(read_file(folder.file("result.json")));
    EXPECT_EQ(document.at("ceilings").at("source"), "not measured");
    EXPECT_FALSE(document.at("device").get<std::string>().empty());
    std::set<std::string> seen;
    for (const json& row : document.at("rows")) {
        expect_row(row);
        seen.insert(row.at("op").get<std::string>() + " " + row.at("format").get<std::string>() + " " +
                    row.at("mode").get<std::string>() + " " + std::to_string(row.at("tokens").get<int>()));
    }
    EXPECT_EQ(document.at("rows").size(), 20U);
    EXPECT_EQ(seen.size(), 20U);
    for (const char* expected :
         {"fused_moe mxfp4 owning 1", "fused_moe int4_g32 workspace 20", "fused_moe fp8_block owning 20",
          "sparse_attention fp8_656 workspace 1", "sparse_attention fp8_584 owning 1"})
        EXPECT_EQ(seen.count(expected), 1U) << expected;
}

TEST(Bench, kept_files_serve_as_checkpoints) {
    const TemporaryFolder folder;
    ASSERT_EQ(run_tool({"bench", "--quick", "--tokens", "1", "--keep", folder.file("kept")}).status, 0);
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.file("kept"))) {
        const ToolResult result =
            run_tool({"bench", "--checkpoint", entry.path().string(), "--layer", "0", "--tokens", "3", "--quick"});
        EXPECT_EQ(result.status, 0) << result.error;
        EXPECT_NE(result.out.find(" ok"), std::string::npos) << result.out;
        ++files;
    }
    EXPECT_EQ(files, 3U);
}

TEST(Bench, options_of_a_checkpoint_override_what_its_layout_says) {
    const TemporaryFolder folder;
    const std::string path = folder.file("layer.safetensors");
    formats::write_synthetic_layer(
        path,
        {.layout = CheckpointLayout::deepseek_fp8, .layer = 3, .experts = 32, .hidden = 128, .intermediate = 128});
    const auto published = cli::bench::load_layer(path, 3, {});
    EXPECT_EQ(published.routing.method, moe::RouteMethod::sigmoid_grouped);
    EXPECT_EQ(published.routing.num_groups, 8);
    EXPECT_EQ(published.activation.kind, moe::ActivationKind::swiglu);
    const auto changed = cli::bench::load_layer(
        path, 3, {.activation = "gpt_oss", .limit = 3.0, .routing = "softmax", .top_k = 2, .renormalize = false});
    EXPECT_EQ(changed.routing.method, moe::RouteMethod::softmax);
    EXPECT_EQ(changed.routing.num_groups, 1);
    EXPECT_EQ(changed.routing.top_k, 2);
    EXPECT_FALSE(changed.routing.renormalize);
    EXPECT_EQ(changed.activation.kind, moe::ActivationKind::gpt_oss);
    EXPECT_EQ(changed.activation.limit, 3.0F);
    const auto few = cli::bench::load_layer(path, 3, {.experts = 9});
    EXPECT_EQ(few.experts.num_experts, 9);
    EXPECT_EQ(few.routing.num_groups, 1) << "9 experts are no 8 groups";
    EXPECT_THROW(cli::bench::load_layer(path, 4, {}), Error);
    EXPECT_THROW(cli::bench::load_layer(path, 3, {.activation = "relu"}), Error);
    EXPECT_EQ(run_tool({"bench", "--checkpoint", path, "--layer", "3", "--experts", "9", "--tokens", "2", "--top-k",
                        "4", "--renormalize", "false", "--quick"})
                  .status,
              0);
}

TEST(Bench, refuses_what_it_cannot_run) {
    const TemporaryFolder folder;
    const std::vector<std::vector<std::string>> calls = {{"bench", "--device", "cuda", "--quick"},
                                                         {"bench", "--preset", "everything"},
                                                         {"bench", "--tokens", "0"},
                                                         {"bench", "--tokens", "1,x"},
                                                         {"bench", "--layer", "1"},
                                                         {"bench", "--checkpoint", folder.file("nowhere.safetensors")},
                                                         {"bench", "--quick", "--keep", "/dev/null/x"}};
    for (const auto& call : calls) {
        const ToolResult result = run_tool(call);
        EXPECT_EQ(result.status, 2) << result.out << result.error;
        EXPECT_NE(result.error.find("tokamak: "), std::string::npos) << result.error;
    }
}

}  // namespace
}  // namespace tokamak::test
