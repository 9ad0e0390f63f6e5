// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "cli/case_folder.h"
#include "cli/run_tool.h"

namespace tokamak::test {
namespace {

using nlohmann::json;

ToolResult check(const CaseFolder& folder, std::vector<std::string> more = {}) {
    folder.write();
    std::vector<std::string> arguments = {"check", folder.path()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_tool(arguments);
}

std::string last_line(const std::string& text) {
    const std::size_t end = text.find_last_not_of('\n');
    if (end == std::string::npos) return "";
    const std::size_t begin = text.find_last_of('\n', end);
    return text.substr(begin == std::string::npos ? 0 : begin + 1,
                       end - (begin == std::string::npos ? 0 : begin + 1) + 1);
}

/// out[m, :] = 2 * (y[m, 0, :] + y[m, 1, :]): sums of small integers, exact in every format.
json& add_sum(CaseFolder& folder, const std::string& name, std::vector<float> want = {8, 12, 24, 28}) {
    return folder.add(name, "moe_sum_reduce", {{"routed_scaling_factor", 2.0}},
                      {{"y", f32({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8})}}, {{"out", f32({2, 2}, want)}});
}

TEST(Check, a_right_case_passes) {
    CaseFolder folder;
    add_sum(folder, "sum");
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 0) << result.out << result.error;
    EXPECT_EQ(result.out.rfind("sum ", 0), 0U);
    EXPECT_NE(result.out.find(" pass "), std::string::npos);
    EXPECT_EQ(last_line(result.out), "1 passed, 0 failed, 0 skipped");
}

TEST(Check, a_wrong_value_fails_at_its_place) {
    CaseFolder folder;
    add_sum(folder, "right");
    add_sum(folder, "wrong", {8, 12, 25, 28});
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.out.find("out[1, 0]: got 24, want 25"), std::string::npos) << result.out;
    EXPECT_EQ(last_line(result.out), "1 passed, 1 failed, 0 skipped");
}

TEST(Check, tolerances_decide_and_strict_takes_the_suggested_ones) {
    CaseFolder folder;
    add_sum(folder, "near", {8, 12, 25, 28})["tolerance"]["out"] = {
        {"atol", 0.0}, {"rtol", 0.05}, {"suggested", {{"atol", 0.5}, {"rtol", 0.0}}}};
    EXPECT_EQ(check(folder).status, 0);
    const ToolResult strict = check(folder, {"--strict"});
    EXPECT_EQ(strict.status, 1);
    EXPECT_NE(strict.out.find("worst 2 of tolerance"), std::string::npos) << strict.out;
}

TEST(Check, strict_compares_with_the_float_accumulated_result_where_there_is_one) {
    CaseFolder folder;
    json& entry = folder.add("aux", "moe_sum_reduce", {{"routed_scaling_factor", 2.0}},
                             {{"y", f32({1, 2, 2}, {1, 2, 3, 4})}, {"precise", f32({1, 2}, {8, 12})}},
                             {{"out", f32({1, 2}, {8.5, 12.5})}});
    entry["tolerance"]["out"] = {{"atol", 1.0}, {"rtol", 0.0}};
    entry["aux"] = {{"out_fp32acc", entry["inputs"]["precise"]}};
    entry["aux_tolerance"] = {{"out_fp32acc", {{"atol", 1e-6}, {"rtol", 0.0}}}};
    EXPECT_EQ(check(folder).status, 0);
    EXPECT_EQ(check(folder, {"--strict"}).status, 0);
    entry["aux"]["out_fp32acc"] = entry["outputs"]["out"];
    EXPECT_EQ(check(folder, {"--strict"}).status, 1);
}

TEST(Check, infinities_and_nan_equal_only_themselves) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> y = {infinity, NAN, 1, 2};
    for (const auto& [want, status] : std::vector<std::pair<std::vector<float>, int>>{{{infinity, NAN, 1, 2}, 0},
                                                                                      {{-infinity, NAN, 1, 2}, 1},
                                                                                      {{infinity, 3, 1, 2}, 1},
                                                                                      {{infinity, NAN, NAN, 2}, 1}}) {
        CaseFolder folder;
        json& entry = folder.add("special", "moe_sum_reduce", {{"routed_scaling_factor", 1.0}},
                                 {{"y", f32({1, 1, 4}, y)}}, {{"out", f32({1, 4}, want)}});
        entry["tolerance"]["out"] = {{"atol", 1e30}, {"rtol", 1.0}};
        EXPECT_EQ(check(folder).status, status);
    }
}

TEST(Check, a_mismatch_or_refusal_in_a_quirk_case_differs) {
    CaseFolder folder;
    add_sum(folder, "quirk", {8, 12, 25, 28})["tags"] = {"quirk"};
    json& refused = folder.add("refused", "topk_softmax", {{"topk", 9}, {"renormalize", true}},
                               {{"gating_output", f32({1, 2}, {0, 1})}}, {{"topk_ids", i32({1, 2}, {1, 0})}});
    refused["tags"] = {"quirk"};
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 0) << result.out;
    EXPECT_NE(result.out.find("refused: "), std::string::npos) << result.out;
    EXPECT_NE(result.out.find("2 differ"), std::string::npos) << result.out;
    EXPECT_EQ(last_line(result.out), "0 passed, 0 failed, 0 skipped");
    refused["tags"] = json::array();
    EXPECT_EQ(check(folder).status, 1);
}

TEST(Check, what_is_not_offered_is_skipped_with_the_reason) {
    CaseFolder folder;
    add_sum(folder, "unknown")["op"] = "flux_capacitor";
    folder.add("narrow", "dequant_fp8_ds_mla", {{"nope_dim", 64}, {"rope_dim", 16}, {"quant_block", 32}},
               {{"value_bytes", u8({1, 96}, std::vector<std::uint8_t>(96))},
                {"scale_bytes", u8({1, 8}, {0, 0, 0, 0, 0, 0, 0, 0})}},
               {{"out", f32({1, 80}, std::vector<float>(80))}});
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 0) << result.out;
    EXPECT_NE(result.out.find("flux_capacitor"), std::string::npos);
    EXPECT_NE(result.out.find("64 + 16"), std::string::npos) << result.out;
    EXPECT_EQ(last_line(result.out), "0 passed, 0 failed, 2 skipped");
}

TEST(Check, an_empty_row_may_give_0_or_minus_infinity_only_under_its_tag) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> row(64, 0.5F);
    for (const bool tagged : {true, false}) {
        CaseFolder folder;
        json& entry =
            folder.add("dead", "sparse_mla_attention",
                       {{"T", 2}, {"H", 1}, {"D", 64}, {"d_v", 64}, {"topk", 1}, {"Kv", 1}, {"sm_scale", 1.0}},
                       {{"q", bf16({2, 1, 64}, std::vector<float>(128, 0.25F))},
                        {"kv", bf16({1, 64}, row)},
                        {"indices", i32({2, 1}, {0, -1})}},
                       {{"lse", f32({2, 1}, {8, -infinity})}, {"max_logits", f32({2, 1}, {8, 0})}});
        if (tagged) entry["tags"] = {"dead_rows"};
        const ToolResult result = check(folder);
        EXPECT_EQ(result.status, tagged ? 0 : 1) << result.out;
    }
}

TEST(Check, attention_over_f32_rows_keeps_their_precision) {
    CaseFolder folder;
    // One selected row: the result is that row, to the last bit of f32, at a width that no kernel has.
    const std::vector<float> row = {1.0F + 0x1p-23F, -3.0000002F, 1e-20F, 0x1.fffffep10F, 0.1F};
    folder.add("precise", "sparse_mla_attention", {{"d_v", 4}, {"sm_scale", 0.5}},
               {{"q", f32({1, 1, 5}, {1, 0, 0, 0, 2})}, {"kv", f32({1, 5}, row)}, {"indices", i32({1, 2}, {0, -1})}},
               {{"out", f32({1, 1, 4}, {row[0], row[1], row[2], row[3]})}});
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 0) << result.out;
}

TEST(Check, a_case_that_does_not_hold_together_fails_and_the_others_run) {
    CaseFolder folder;
    add_sum(folder, "good");
    add_sum(folder, "no_input")["inputs"] = json::object();
    add_sum(folder, "no_tensor")["inputs"]["y"]["tensor"] = "in.z";
    add_sum(folder, "wrong_dtype")["inputs"]["y"]["dtype"] = "BF16";
    add_sum(folder, "wrong_shape")["outputs"]["out"]["shape"] = {4};
    add_sum(folder, "huge_shape")["outputs"]["out"]["shape"] = {std::int64_t{1} << 62, 1024};
    add_sum(folder, "wrong_param")["params"]["routed_scaling_factor"] = "two";
    add_sum(folder, "no_file")["file"] = "nowhere.safetensors";
    add_sum(folder, "outside")["file"] = "../good.safetensors";
    add_sum(folder, "no_tolerance").erase("tolerance");
    add_sum(folder, "other_output")["outputs"]["extra"] = {{"tensor", "out.out"}, {"dtype", "F32"}, {"shape", {2, 2}}};
    add_sum(folder, "rank")["inputs"]["y"] = {{"tensor", "out.out"}, {"dtype", "F32"}, {"shape", {2, 2}}};
    add_sum(folder, "tolerated").at("tolerance")["extra"] = {{"exact", true}};
    add_sum(folder, "truncated");
    std::filesystem::resize_file(folder.file("truncated.safetensors"), 100);
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(last_line(result.out), "2 passed, 12 failed, 0 skipped") << result.out;
}

TEST(Check, align_sizes_beyond_memory_are_refused) {
    CaseFolder folder;
    folder.add("huge", "moe_align_block_size", {{"num_experts", 2147483647}, {"block_size", 2147483647}},
               {{"topk_ids", i32({1, 1}, {0})}}, {{"num_tokens_post_padded", i32({1}, {1})}});
    const ToolResult result = check(folder);
    EXPECT_EQ(result.status, 1) << result.out;
    EXPECT_EQ(last_line(result.out), "0 passed, 1 failed, 0 skipped");
}

TEST(Check, a_folder_without_manifest_or_with_a_broken_one_is_refused) {
    const TemporaryFolder empty;
    EXPECT_EQ(run_tool({"check", empty.path()}).status, 2);
    EXPECT_EQ(run_tool({"check", empty.file("nowhere")}).status, 2);
    EXPECT_EQ(run_tool({"check"}).status, 2);
    for (const char* text : {"", "[1, 2", "{}", R"({"format": 3, "cases": []})", R"({"format": 1, "cases": 1})"}) {
        write_file(empty.file("manifest.json"), text);
        const ToolResult result = run_tool({"check", empty.path()});
        EXPECT_EQ(result.status, 2) << text;
        EXPECT_EQ(result.error.rfind("tokamak: ", 0), 0U) << result.error;
    }
    write_file(empty.file("manifest.json"), R"({"format": 1, "cases": [7, null, {"name": "x\u001b[2J"}]})");
    const ToolResult result = run_tool({"check", empty.path()});
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(last_line(result.out), "0 passed, 3 failed, 0 skipped");
    EXPECT_EQ(result.out.find('\x1b'), std::string::npos);
}

TEST(Check, filter_chooses_by_name_and_json_says_everything) {
    CaseFolder folder;
    add_sum(folder, "alpha");
    add_sum(folder, "beta", {8, 12, 25, 28});
    EXPECT_EQ(last_line(check(folder, {"--filter", "lph"}).out), "1 passed, 0 failed, 0 skipped");
    EXPECT_EQ(check(folder, {"--json", folder.file("result.json")}).status, 1);
    const json document = json::parse(read_file(folder.file("result.json")));
    EXPECT_EQ(document.at("passed"), 1);
    EXPECT_EQ(document.at("failed"), 1);
    EXPECT_EQ(document.at("cases").size(), 2U);
    EXPECT_EQ(document.at("cases").at(1).at("name"), "beta");
    EXPECT_EQ(document.at("cases").at(1).at("result"), "fail");
    EXPECT_EQ(document.at("cases").at(1).at("worst").at("where"), "out[1, 0]");
    EXPECT_EQ(document.at("cases").at(1).at("worst").at("ratio"), "inf");
}

TEST(Check, a_device_that_is_not_there_is_refused) {
    CaseFolder folder;
    add_sum(folder, "sum");
    const ToolResult result = check(folder, {"--device", "cuda:99"});
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.error.find("cuda:99"), std::string::npos);
    EXPECT_EQ(check(folder, {"--device", "abacus"}).status, 2);
}

/// Cases that are handed around with the project, outside of it; other folders by TOKAMAK_CONFORMANCE_DIR.
TEST(Check, shared_cases_pass_strictly) {
    const char* named = std::getenv("TOKAMAK_CONFORMANCE_DIR");
    const std::string folder = named != nullptr ? named : std::string(TOKAMAK_SOURCE_DIR) + "/../shared/conformance";
    if (!std::filesystem::exists(folder + "/manifest.json")) GTEST_SKIP() << "no cases at " << folder;
    const ToolResult result = run_tool({"check", folder, "--strict"});
    EXPECT_EQ(result.status, 0) << result.out << result.error;
}

}  // namespace
}  // namespace tokamak::test
