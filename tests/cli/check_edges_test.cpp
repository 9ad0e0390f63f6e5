// SPDX-License-Identifier: Apache-2.0
// Cases at the edge of what the manifest allows, with results that follow by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cli/case_folder.h"
#include "cli/run_tool.h"

namespace tokamak::test {
namespace {

using nlohmann::json;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void expect_all_pass(const CaseFolder& folder) {
    folder.write();
    const ToolResult result = run_tool({"check", folder.path(), "--strict"});
    EXPECT_EQ(result.status, 0) << result.out << result.error;
    EXPECT_EQ(result.out.find(" skip "), std::string::npos) << result.out;
}

TEST(CheckEdges, empty_batches_are_legal) {
    CaseFolder folder;
    folder.add("align", "moe_align_block_size", {{"num_experts", 2}, {"block_size", 4}, {"pad_id", 0}, {"max_pad", 9}},
               {{"topk_ids", i32({0, 4}, {})}},
               {{"sorted_token_ids", i32({9}, std::vector<std::int32_t>(9))},
                {"expert_ids", i32({0}, {})},
                {"expert_ids_full", i32({3}, {0, 0, 0})},
                {"num_tokens_post_padded", i32({1}, {0})}});
    folder.add("softmax", "topk_softmax", {{"topk", 2}}, {{"gating_output", f32({0, 4}, {})}},
               {{"topk_weights", f32({0, 2}, {})}, {"topk_ids", i32({0, 2}, {})}});
    folder.add("sum", "moe_sum_reduce", json::object(), {{"y", bf16({0, 3, 8}, {})}}, {{"out", bf16({0, 8}, {})}});
    folder.add(
        "attention", "sparse_mla_attention", {{"sm_scale", 1.0}},
        {{"q", bf16({0, 2, 64}, {})}, {"kv", bf16({1, 64}, std::vector<float>(64))}, {"indices", i32({0, 4}, {})}},
        {{"out", bf16({0, 2, 64}, {})}, {"lse", f32({0, 2}, {})}, {"max_logits", f32({0, 2}, {})}});
    folder.add("merge", "mha_merge_state", json::object(),
               {{"out_a", f32({0, 1, 4}, {})},
                {"lse_a", f32({0, 1}, {})},
                {"out_b", f32({0, 1, 4}, {})},
                {"lse_b", f32({0, 1}, {})}},
               {{"out", f32({0, 1, 4}, {})}, {"lse", f32({0, 1}, {})}});
    folder.add("int4", "fused_moe_int4_w4a16", {{"group_size", 32}},
               {{"A", bf16({0, 32}, {})},
                {"packed", i32({1, 2, 4}, std::vector<std::int32_t>(8))},
                {"scale", bf16({1, 2, 1}, {1, 1})},
                {"topk_ids", i32({0, 1}, {})},
                {"topk_w", f32({0, 1}, {})}},
               {{"out", bf16({0, 2}, {})}});
    expect_all_pass(folder);
}

TEST(CheckEdges, no_routes_and_no_columns_give_zeros) {
    CaseFolder folder;
    folder.add("sum", "moe_sum_reduce", {{"routed_scaling_factor", 3.0}}, {{"y", f32({2, 0, 4}, {})}},
               {{"out", f32({2, 4}, std::vector<float>(8))}});
    // A single number is the sink of every head.
    folder.add("sink", "sparse_mla_attention", {{"sm_scale", 1.0}, {"d_v", 32}},
               {{"q", bf16({1, 2, 64}, std::vector<float>(128, 1))},
                {"kv", bf16({1, 64}, std::vector<float>(64, NAN))},
                {"indices", i32({1, 3}, {-1, -1, 0})},
                {"topk_length", i32({1}, {2})},
                {"attn_sink", f32({1}, {0.5F})}},
               {{"out", bf16({1, 2, 32}, std::vector<float>(64))},
                {"lse", f32({1, 2}, {0.5F, 0.5F})},
                {"max_logits", f32({1, 2}, {0.5F, 0.5F})}});
    expect_all_pass(folder);
}

TEST(CheckEdges, f32_and_f16_activations_run) {
    CaseFolder folder;
    // Codes 9 are weights 1; two experts of 2 x 32, K sums of ones.
    const std::vector<std::int32_t> ones(16, static_cast<std::int32_t>(0x99999999U));
    folder.add("int4", "fused_moe_int4_w4a16", {{"group_size", 32}, {"mul_routed_weight", true}, {"act_dtype", "F32"}},
               {{"A", f32({1, 32}, std::vector<float>(32, 1.25F))},
                {"packed", i32({2, 2, 4}, ones)},
                {"scale", bf16({2, 2, 1}, {1, 2, 4, 8})},
                {"topk_ids", i32({1, 2}, {1, 0})},
                {"topk_w", f32({1, 2}, {0.5F, 2})}},
               {{"out", f32({1, 2}, {40 * (0.5F * 4 + 2 * 1), 40 * (0.5F * 8 + 2 * 2)})}});
    folder.add("softmax", "topk_softmax", {{"topk", 2}, {"renormalize", true}},
               {{"gating_output", bf16({1, 3}, {-kInfinity, 1, 1})}},
               {{"topk_weights", f32({1, 2}, {0.5F, 0.5F})}, {"topk_ids", i32({1, 2}, {1, 2})}});
    expect_all_pass(folder);
}

TEST(CheckEdges, ranks_hold_their_own_experts) {
    CaseFolder folder;
    const std::vector<std::int32_t> ones(16, static_cast<std::int32_t>(0x99999999U));
    folder.add("ranks", "fused_moe_int4_w4a16", {{"group_size", 32}, {"ep_ranks", 2}},
               {{"A", bf16({1, 32}, std::vector<float>(32, 1))},
                {"packed", i32({2, 2, 4}, ones)},
                {"scale", bf16({2, 2, 1}, {1, 2, 4, 8})},
                {"topk_ids", i32({1, 2}, {1, 0})},
                {"topk_w", f32({1, 2}, {1, 1})},
                {"expert_map_0", i32({2}, {0, -1})},
                {"expert_map_1", i32({2}, {-1, 0})}},
               {{"out", bf16({1, 2}, {160, 320})},
                {"partial_0", bf16({1, 2}, {32, 64})},
                {"partial_1", bf16({1, 2}, {128, 256})}});
    expect_all_pass(folder);
}

TEST(CheckEdges, two_caches_share_one_softmax) {
    CaseFolder folder;
    // Zero rows: every score is 0, so the lse counts the rows, and the sink adds one more.
    const auto cache = u8({2, 4, 576}, std::vector<std::uint8_t>(2 * 4 * 576));
    const auto scales = u8({2, 4, 8}, std::vector<std::uint8_t>(2 * 4 * 8, 127));
    json& entry =
        folder.add("decode", "flash_mla_with_kvcache", {{"softmax_scale", 1.0}, {"head_dim_v", 512}, {"block_size", 4}},
                   {{"q", bf16({1, 1, 1, 512}, std::vector<float>(512, 1))},
                    {"k_cache", cache},
                    {"scale_cache", scales},
                    {"indices", i32({1, 1, 3}, {0, 7, -1})},
                    {"attn_sink", f32({1}, {0})},
                    {"extra_k_cache", cache},
                    {"extra_scale_cache", scales},
                    {"extra_indices", i32({1, 1, 2}, {3, 3})},
                    {"extra_topk_length", i32({1}, {1})}},
                   {{"out", bf16({1, 1, 1, 512}, std::vector<float>(512))}, {"lse", f32({1, 1}, {std::log(4.0F)})}});
    entry["tolerance"]["lse"] = {{"atol", 1e-6}, {"rtol", 0.0}};
    expect_all_pass(folder);
}

TEST(CheckEdges, starts_without_lengths_mean_nothing_to_the_indexer) {
    CaseFolder folder;
    folder.add("index", "dsa_indexer", {{"topk", 2}},
               {{"q", f32({1, 2, 4}, {1, 0, 0, 0, 0, 1, 0, 0})},
                {"k", f32({3, 4}, {1, 2, 0, 0, -1, 4, 0, 0, 3, 1, 0, 0})},
                {"weights", f32({1, 2, 1}, {1, 2})},
                {"row_starts", i32({1}, {2})}},
               {{"logits", f32({1, 3}, {5, 8, 5})}, {"indices", i32({1, 2}, {1, 0})}});
    expect_all_pass(folder);
}

TEST(CheckEdges, ranks_without_local_experts_align_to_nothing) {
    CaseFolder folder;
    folder.add("nobody", "moe_align_block_size_ep", {{"num_experts", 2}, {"e_local", 0}, {"block_size", 2}},
               {{"topk_ids", i32({1, 2}, {1, 0})}, {"expert_map", i32({2}, {-1, -1})}},
               {{"sorted_token_ids", i32({3}, {2, 2, 2})},
                {"num_tokens_post_padded", i32({1}, {0})},
                {"ghost_sorted_token_ids", i32({4}, {0, 1, 2, 2})},
                {"ghost_num_tokens_post_padded", i32({1}, {2})}});
    expect_all_pass(folder);
}

}  // namespace
}  // namespace tokamak::test
