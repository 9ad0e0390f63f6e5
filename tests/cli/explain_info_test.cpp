// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_tool.h"

namespace tokamak::test {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Info, names_version_devices_and_every_operator) {
    const ToolResult result = run_tool({"info"});
    EXPECT_EQ(result.status, 0) << result.error;
    for (const char* part : {"tokamak ", "cpu", "moe::fused_moe", "moe::route", "mla::sparse_attention", "mla::indexer",
                             "int4_g32", "mxfp4", "fp8_block", "fp8_656", "fp8_584", "cpu_f32", "cpu_f64"})
        EXPECT_TRUE(contains(result.out, part)) << part << " is not in\n" << result.out;
}

TEST(Info, json_gives_variants_or_a_reason_for_every_operator_and_device) {
    const ToolResult result = run_tool({"info", "--json"});
    ASSERT_EQ(result.status, 0) << result.error;
    const auto document = nlohmann::json::parse(result.out);
    EXPECT_FALSE(document.at("tokamak").get<std::string>().empty());
    EXPECT_TRUE(document.at("backends").at("cpu").at("available").get<bool>());
    EXPECT_EQ(document.at("devices").at(0).at("device"), "cpu");
    EXPECT_GE(document.at("operators").size(), 20U);
    for (const auto& entry : document.at("operators")) {
        EXPECT_TRUE(entry.at("devices").contains("cpu"));
        EXPECT_GE(entry.at("devices").size(), 2U) << "the GPU is spoken of even where there is none";
        for (const auto& offer : entry.at("devices"))
            EXPECT_NE(offer.at("variants").empty(), !offer.contains("reason")) << entry;
    }
}

TEST(Info, json_goes_to_a_file_if_one_is_named) {
    const TemporaryFolder folder;
    EXPECT_EQ(run_tool({"info", "--json", folder.file("info.json")}).status, 0);
    EXPECT_TRUE(nlohmann::json::parse(read_file(folder.file("info.json"))).contains("operators"));
    EXPECT_EQ(run_tool({"info", "--json", folder.file("no/such/folder.json")}).status, 2);
}

TEST(Explain, prints_the_table_and_the_row_of_a_count) {
    const ToolResult result =
        run_tool({"explain", "moe", "--shape", "kimi-k2-e48", "--max-tokens", "8192", "--tokens", "100"});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_TRUE(contains(result.out, "tokens <= 8192")) << result.out;
    EXPECT_TRUE(contains(result.out, "workspace ")) << result.out;
    EXPECT_TRUE(contains(result.out, "100 tokens: row 128, variant cpu_f32, source heuristic")) << result.out;
}

TEST(Explain, knows_every_operator) {
    const std::vector<std::vector<std::string>> calls = {
        {"mla", "--shape", "v32-h128", "--format", "fp8_656", "--tokens", "1"},
        {"sparse_attention", "--shape", "v4-h64"},
        {"fused_moe", "--format", "bf16", "--hidden", "64", "--intermediate", "32", "--experts", "4", "--top-k", "2"},
        {"moe", "--shape", "dsv3-ep8", "--format", "int4_g32_a8"},
        {"moe", "--shape", "gpt-oss-120b", "--format", "mxfp4_a8"},
        {"moe::routed_gemm", "--shape", "qwen3-30b-a3b", "--format", "bf16"},
        {"route", "--shape", "dsv3-e32"},
        {"align", "--shape", "gpt-oss-120b", "--block-size", "64"},
        {"sum_reduce", "--shape", "v4-flash-tp4"},
        {"merge_state", "--shape", "v32-h16"},
        {"paged_gather", "--format", "mxfp4", "--dim", "128", "--top-k", "16"},
        {"write_kv", "--shape", "v4-h128"},
        {"indexer"}};
    for (auto call : calls) {
        call.insert(call.begin(), "explain");
        const ToolResult result = run_tool(call);
        EXPECT_EQ(result.status, 0) << call[1] << ": " << result.error;
        EXPECT_TRUE(contains(result.out, "cpu_f32")) << result.out;
    }
}

TEST(Explain, a_pinned_variant_is_the_only_one) {
    const ToolResult result =
        run_tool({"explain", "moe", "--shape", "gpt-oss-120b", "--variant", "cpu_f64", "--max-tokens", "64"});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_TRUE(contains(result.out, "cpu_f64 (option)")) << result.out;
    EXPECT_FALSE(contains(result.out, "cpu_f32")) << result.out;
}

TEST(Explain, refuses_what_it_cannot_explain) {
    const std::vector<std::pair<std::vector<std::string>, std::string>> calls = {
        {{"explain"}, "OP"},
        {{"explain", "warp_drive"}, "warp_drive"},
        {{"explain", "moe", "--shape", "gpt-6"}, "kimi-k2-e48"},
        {{"explain", "moe"}, "--format"},
        {{"explain", "moe", "--format", "int3"}, "int3"},
        {{"explain", "moe", "--format", "nvfp4_a8"}, "mxfp4_a8"},
        {{"explain", "routed_gemm", "--shape", "dsv3-e32", "--format", "mxfp4_a8"}, "expected mxfp4"},
        {{"explain", "moe", "--format", "mxfp4"}, "--hidden"},
        {{"explain", "moe", "--shape", "kimi-k2-e48", "--variant", "nonesuch"}, "nonesuch"},
        {{"explain", "moe", "--shape", "kimi-k2-e48", "--device", "cuda:99"}, "cuda:99"},
        {{"explain", "moe", "--shape", "kimi-k2-e48", "--max-tokens", "-3"},
         "--max-tokens: is -3, expected a number of at least 0"},
        {{"explain", "moe", "--shape", "kimi-k2-e48", "--max-tokens", "many"},
         "--max-tokens: is many, expected a number of at least 0"},
        {{"tune", "buckets", "--max-tokens", "0"}, "--max-tokens: is 0, expected a number above 0"},
        {{"explain", "mla", "--shape", "v32-h16", "--max-tokens", "8", "--tokens", "9"}, "9"}};
    for (const auto& [call, part] : calls) {
        const ToolResult result = run_tool(call);
        EXPECT_EQ(result.status, 2) << part;
        EXPECT_TRUE(contains(result.error, part)) << result.error;
    }
}

}  // namespace
}  // namespace tokamak::test
