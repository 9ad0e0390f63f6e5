// SPDX-License-Identifier: Apache-2.0
// Which configuration of the sparse decode kernel a token count selects, and what an override does to it.
#include "mla/cuda/sparse_attention_choose.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tokamak/error.h"

namespace tokamak::mla::cuda {
namespace {

constexpr int kMultiprocessors = 132;

bool anything_fits(const SparseConfig&, const SparseAttentionProblem&) { return true; }

SparseAttentionProblem problem_of(int heads, std::vector<int> top_k) {
    SparseAttentionProblem problem = {.max_tokens = 128, .heads = heads, .dim = 576, .value_dim = 512};
    for (const int k : top_k) problem.pools.push_back({KvFormat::fp8_656, 1 << 20, 64, k});
    return problem;
}

/// The plan's table for an override text; no stores.
std::vector<PlanRow> table(const SparseAttentionProblem& problem, std::optional<std::string> text = {},
                           std::int64_t max_tokens = 64) {
    const auto configs = legal_configs(problem.heads, &anything_fits, problem);
    ChooseRequest request;
    request.op = "sparse_attention";
    request.max_tokens = max_tokens;
    for (const SparseConfig& config : configs) request.legal.push_back(to_string(config));
    request.heuristic = [&](std::int64_t tokens) {
        return to_string(choose_config(configs, problem, tokens, kMultiprocessors));
    };
    request.override_name = "TOKAMAK_SPARSE_MLA_CONFIG";
    request.override_text = std::move(text);
    request.fields = config_fields();
    return choose_table(request);
}

std::string variant_at(const std::vector<PlanRow>& rows, std::int64_t tokens) {
    for (const PlanRow& row : rows)
        if (tokens <= row.tokens) return row.variant;
    return "none";
}

void expect_refused(const std::string& text, std::initializer_list<std::string> parts) {
    try {
        table(problem_of(128, {2048}), text);
        ADD_FAILURE() << text << " was not refused";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::parse);
        for (const std::string& part : parts)
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << " lacks " << part;
    }
}

TEST(SparseAttentionChoice, WhatIsNotLegalIsListedWithTheReason) {
    const auto problem = problem_of(16, {2048});
    const auto legal = legal_configs(problem.heads, &anything_fits, problem);
    const auto refused = refused_configs(legal, problem, false);
    EXPECT_EQ(legal.size() + refused.size(), all_configs().size());
    for (const auto& [variant, reason] : refused) {
        if (!variant.starts_with("sparse_decode")) continue;
        EXPECT_EQ(reason, "half of its heads or more would be padding") << variant;
    }
    const auto reason = [](const std::string& variant, bool pairs) {
        for (const auto& [name, why] : refused_configs({}, problem_of(128, {2049}), pairs))
            if (name == variant) return why;
        return std::string();
    };
    EXPECT_EQ(reason("sparse_decode_h128_s8", true), "a cluster would have more than 8 thread blocks");
    EXPECT_EQ(reason("sparse_decode_h128_s8", false), "pairs of thread blocks are for fp8 rows of 512");
    EXPECT_EQ(reason("flat_decode_r128_h32_s16", true), "its shares would be longer than 128 rows");
}

TEST(SparseAttentionChoice, OneTokenSplitsOverTheChipAndManyDoNot) {
    for (const int heads : {16, 64, 128}) {
        const auto rows = table(problem_of(heads, {2048}), {}, 256);
        EXPECT_EQ(variant_at(rows, 1).substr(variant_at(rows, 1).size() - 3), "s16") << heads;
        EXPECT_EQ(variant_at(rows, 256).substr(variant_at(rows, 256).size() - 2), "s1") << heads;
    }
}

TEST(SparseAttentionChoice, SplitsThatAreNoPowersOfTwoFillTheChip) {
    const auto no_direct = [](const SparseConfig& config, const SparseAttentionProblem&) {
        return !config.direct && !config.grid;
    };
    const SparseAttentionProblem of_128 = problem_of(128, {2048});
    EXPECT_EQ(to_string(choose_config(legal_configs(128, no_direct, of_128), of_128, 8, kMultiprocessors)),
              "sparse_decode_h64_s6");
    SparseAttentionProblem problem = problem_of(128, {128, 1024});
    problem.dim = 512;
    EXPECT_EQ(variant_at(table(problem), 1), "flat_decode_r128_h16_s9");
}

TEST(SparseAttentionChoice, LongSharesOfSixteenHeadsTakeTheClustersThatRunAtOnce) {
    const SparseAttentionProblem problem = problem_of(16, {2048});
    EXPECT_EQ(variant_at(table(problem), 1), "flat_decode_r128_h16_s16");
    EXPECT_EQ(variant_at(table(problem), 8), "flat_decode_r256_h16_s8");
    EXPECT_EQ(variant_at(table(problem_of(64, {2048})), 3), "flat_decode_r256_h16_s8");
    SparseAttentionProblem narrow = problem_of(16, {2048});
    narrow.dim = 512;
    for (const auto& [variant, reason] : refused_configs({}, narrow, true)) {
        if (variant != "flat_decode_r256_h16_s8") continue;
        EXPECT_EQ(reason, "so many rows fit only as fp8 rows of 576");
        return;
    }
    ADD_FAILURE() << "no such variant";
}

TEST(SparseAttentionChoice, SplitsOfTheFlatFormBecomeFewerInTheOther) {
    for (const auto& [flat, pipelined] :
         {std::pair(5, 4), std::pair(6, 6), std::pair(8, 8), std::pair(9, 8), std::pair(16, 8)})
        EXPECT_EQ(sparse_splits(flat), pipelined);
}

TEST(SparseAttentionChoice, ThePairedFormTakesManyTokensOfFp8RowsOf512) {
    SparseAttentionProblem problem = problem_of(64, {128, 512});
    problem.dim = 512;
    EXPECT_EQ(variant_at(table(problem, {}, 256), 64), "paired_decode_h64_s2");
    for (const std::int64_t tokens : {128, 256})
        EXPECT_EQ(variant_at(table(problem, {}, 256), tokens), "paired_decode_h64_s1");
    problem = problem_of(128, {128, 1024});
    problem.dim = 512;
    for (const std::int64_t tokens : {64, 128, 256})
        EXPECT_EQ(variant_at(table(problem, {}, 256), tokens), "paired_decode_h128_s1");
    EXPECT_EQ(config_fields().set("paired_decode_h128_s1", "splits", 2), "sparse_decode_h128_s2");
    EXPECT_EQ(config_fields().set("paired_decode_h128_s1", "heads", 64), "paired_decode_h64_s1");
    for (const SparseConfig& config : legal_configs(128, &anything_fits, problem))
        EXPECT_TRUE(!config.paired || config.splits <= 2) << "fp8 rows have two splits at most";
}

TEST(SparseAttentionChoice, PairsOfBlocksAreForManyHeads) {
    SparseAttentionProblem problem = problem_of(128, {128, 1024});
    problem.dim = 512;
    const auto unpaired = [](const SparseConfig& config, const SparseAttentionProblem&) { return !config.paired; };
    EXPECT_EQ(to_string(choose_config(legal_configs(128, unpaired, problem), problem, 64, kMultiprocessors)),
              "sparse_decode_h128_s1");
    for (const SparseConfig& config : legal_configs(64, &anything_fits, problem_of(64, {2048})))
        EXPECT_LE(config.heads, 64) << "a pair of which one block has no heads";
    const auto no_pairs = [](const SparseConfig& config, const SparseAttentionProblem&) {
        return config.heads <= 64 && !config.paired;
    };
    const auto configs = legal_configs(128, no_pairs, problem);
    EXPECT_EQ(to_string(choose_config(configs, problem, 64, kMultiprocessors)), "sparse_decode_h64_s1");
}

TEST(SparseAttentionChoice, FewHeadsOfManyTokensTakeTheDirectForm) {
    const SparseAttentionProblem problem = problem_of(16, {2048});
    const auto rows = table(problem, {}, 256);
    EXPECT_EQ(variant_at(rows, 64), "direct_decode_h16_s2");
    for (const std::int64_t tokens : {128, 256}) EXPECT_EQ(variant_at(rows, tokens), "direct_decode_h16_s1");
    EXPECT_EQ(variant_at(table(problem, R"({"splits": 4})", 256), 128), "direct_decode_h16_s4");
    EXPECT_EQ(config_fields().set("direct_decode_h16_s2", "splits", 6), "sparse_decode_h16_s6");
    EXPECT_EQ(config_fields().set("direct_decode_h16_s16", "heads", 8), "sparse_decode_h8_s8");
}

TEST(SparseAttentionChoice, TheDirectFormIsForFp8Rows) {
    const auto problem = problem_of(16, {2048});
    const auto no_direct = [](const SparseConfig& config, const SparseAttentionProblem&) { return !config.direct; };
    const auto legal = legal_configs(16, no_direct, problem);
    int refused = 0;
    for (const auto& [variant, reason] : refused_configs(legal, problem, false)) {
        if (!variant.starts_with("direct_decode_h16")) continue;
        EXPECT_EQ(reason, "the direct form is for fp8 rows") << variant;
        ++refused;
    }
    EXPECT_EQ(refused, 5);
}

TEST(SparseAttentionChoice, ThePairedFormIsForBf16RowsAndFp8RowsOf512) {
    const std::string paired = "paired_decode_h64_s1";
    const auto is_legal = [&](const SparseAttentionProblem& problem) {
        const auto configs = legal_configs(problem.heads, &anything_fits, problem);
        return std::any_of(configs.begin(), configs.end(), [&](const auto& c) { return to_string(c) == paired; });
    };
    SparseAttentionProblem problem = problem_of(128, {2048});
    EXPECT_FALSE(is_legal(problem));
    for (const auto& [variant, reason] : refused_configs({}, problem, false))
        EXPECT_TRUE(variant != paired || reason == "the paired form is for bf16 rows, and for fp8 rows of 512")
            << reason;
    problem.pools[0].format = KvFormat::bf16;
    EXPECT_TRUE(is_legal(problem));
    const auto rows = table(problem, {}, 256);
    EXPECT_EQ(variant_at(rows, 1).substr(0, 11), "flat_decode");
    EXPECT_EQ(variant_at(rows, 8), "paired_decode_h64_s6");
    for (const std::int64_t tokens : {64, 128, 256}) EXPECT_EQ(variant_at(rows, tokens), paired);
    EXPECT_EQ(variant_at(table(problem, R"({"splits": 4})", 256), 128), "paired_decode_h64_s4");
    EXPECT_EQ(config_fields().set("paired_decode_h64_s2", "splits", 8), "sparse_decode_h64_s8");
    EXPECT_EQ(variant_at(table(problem, R"({"variant": "paired_decode_h64_s1"})"), 64), paired);
    for (const auto& [variant, reason] : refused_configs(legal_configs(128, &anything_fits, problem), problem, false))
        EXPECT_TRUE(variant != "paired_decode_h128_s1" || reason == "the paired form of 128 heads is for fp8 rows");
    problem.heads = 32;
    EXPECT_FALSE(is_legal(problem)) << "half of its heads would be padding";
}

TEST(SparseAttentionChoice, ManyHeadsOfManyTokensTakeTheWideDirectForm) {
    const auto of_128 = table(problem_of(128, {2048}), {}, 256);
    for (const std::int64_t tokens : {64, 128, 256}) EXPECT_EQ(variant_at(of_128, tokens), "direct_decode_h64_s1");
    EXPECT_EQ(variant_at(of_128, 8), "grid_decode_h64_s8");
    const auto of_64 = table(problem_of(64, {2048}), {}, 256);
    EXPECT_EQ(variant_at(of_64, 8), "grid_decode_h64_s16");
    EXPECT_EQ(variant_at(of_64, 64), "direct_decode_h64_s2");
    EXPECT_EQ(variant_at(of_64, 128), "direct_decode_h64_s1");
    EXPECT_EQ(config_fields().set("direct_decode_h64_s1", "splits", 6), "direct_decode_h64_s6");
    EXPECT_EQ(config_fields().set("direct_decode_h64_s1", "splits", 16), "sparse_decode_h64_s16") << "refused later";
    EXPECT_EQ(config_fields().set("direct_decode_h64_s2", "heads", 32), "sparse_decode_h32_s2");
}

TEST(SparseAttentionChoice, SplitsThatAreNoClusterTakeAsManyTokensAsRunAtOnce) {
    const SparseConfig eight = {.heads = kWideHeads, .splits = 8, .rows = 0, .grid = true};
    const SparseConfig sixteen = {.heads = kWideHeads, .splits = 16, .rows = 0, .grid = true};
    EXPECT_EQ(to_string(eight), "grid_decode_h64_s8");
    EXPECT_EQ(config_fields().set("grid_decode_h64_s8", "splits", 16), "grid_decode_h64_s16");
    EXPECT_EQ(config_fields().set("grid_decode_h64_s8", "splits", 4), "direct_decode_h64_s4");
    EXPECT_EQ(grid_tokens(sixteen, 64, kMultiprocessors), 8);
    EXPECT_EQ(grid_tokens(eight, 128, kMultiprocessors), 8);
    EXPECT_EQ(grid_tokens(sixteen, 128, 31), 0);
    SparseAttentionProblem problem = problem_of(64, {2048});
    EXPECT_GT(predicted_us(sixteen, problem, 9, kMultiprocessors), predicted_us(sixteen, problem, 8, kMultiprocessors));
    const auto reason = [&](const char* name) {
        for (const auto& [variant, why] : refused_configs({}, problem, false))
            if (variant == name) return why;
        return std::string();
    };
    problem.pools[0].top_k = 2056;
    EXPECT_EQ(reason("grid_decode_h64_s8"), "its shares would be longer than 256 rows");
    EXPECT_TRUE(std::ranges::any_of(legal_configs(64, &anything_fits, problem),
                                    [&](const SparseConfig& config) { return config == sixteen; }));
    problem.pools[0].format = KvFormat::bf16;
    EXPECT_EQ(reason("grid_decode_h64_s8"), "the grid form of 64 heads is for fp8 rows");
}

TEST(SparseAttentionChoice, FewTokensOfManyHeadsAndFp8RowsOf512TakeTheGrid) {
    const auto problem_512 = [](int heads, int top_k) {
        SparseAttentionProblem problem = problem_of(heads, {128, top_k});
        problem.dim = 512;
        for (KvPool& pool : problem.pools) pool.format = KvFormat::fp8_584;
        return problem;
    };
    EXPECT_EQ(variant_at(table(problem_512(64, 512)), 8), "grid_decode_h32_s8");
    EXPECT_EQ(variant_at(table(problem_512(64, 512)), 1), "flat_decode_r64_h16_s16");
    EXPECT_EQ(variant_at(table(problem_512(64, 512)), 64), "paired_decode_h64_s2");
    EXPECT_EQ(variant_at(table(problem_512(128, 1024)), 8), "grid_decode_h64_s8");
    EXPECT_EQ(variant_at(table(problem_512(128, 1024)), 1), "flat_decode_r128_h16_s9");
    EXPECT_EQ(variant_at(table(problem_512(64, 512)), 16), "grid_decode_h64_s8");
    const auto reason = [](const SparseAttentionProblem& problem, const char* refused) {
        for (const auto& [variant, why] : refused_configs({}, problem, true))
            if (variant == refused) return why;
        return std::string();
    };
    EXPECT_EQ(reason(problem_512(64, 520), "grid_decode_h32_s8"), "its shares would be longer than 80 rows");
    EXPECT_EQ(reason(problem_512(128, 1032), "grid_decode_h64_s8"), "its shares would be longer than 144 rows");
    EXPECT_EQ(reason(problem_512(128, 1024), "grid_decode_h64_s16"),
              "the grid form of 64 heads has 8 splits for rows of 512");
    EXPECT_EQ(reason(problem_of(64, {512}), "grid_decode_h32_s8"), "the grid form of 32 heads is for fp8 rows of 512");
    EXPECT_EQ(config_fields().set("grid_decode_h32_s8", "heads", 64), "direct_decode_h64_s8");
    EXPECT_EQ(config_fields().set("grid_decode_h64_s8", "heads", 32), "sparse_decode_h32_s8");
}

TEST(SparseAttentionChoice, EveryTokenCountHasALegalConfiguration) {
    for (int heads = 1; heads <= 128; ++heads) {
        const SparseAttentionProblem problem = problem_of(heads, {128, 1024});
        const auto configs = legal_configs(heads, &anything_fits, problem);
        for (const std::int64_t tokens : {0, 1, 2, 8, 64, 5000}) {
            const SparseConfig config = choose_config(configs, problem, tokens, kMultiprocessors);
            EXPECT_NE(std::find(configs.begin(), configs.end(), config), configs.end());
        }
    }
}

TEST(SparseAttentionChoice, NoTokensGiveOneRow) { EXPECT_EQ(table(problem_of(16, {64}), {}, 0).size(), 1U); }

TEST(SparseAttentionChoice, EmptyOverrideChangesNothing) {
    const SparseAttentionProblem problem = problem_of(128, {2048});
    const auto plain = table(problem);
    const auto overridden = table(problem, "{}");
    for (const std::int64_t tokens : {0, 1, 2, 8, 64})
        EXPECT_EQ(variant_at(plain, tokens), variant_at(overridden, tokens));
    EXPECT_EQ(overridden[0].source, "heuristic");
}

TEST(SparseAttentionChoice, PartialOverrideKeepsTheOtherField) {
    const SparseAttentionProblem problem = problem_of(128, {2048});
    const auto plain = table(problem);
    const auto splits = table(problem, R"({"splits": 2})");
    const auto heads = table(problem, R"({"heads": 32})");
    for (const std::int64_t tokens : {8, 64}) {
        const std::string selected = variant_at(plain, tokens);
        EXPECT_EQ(variant_at(splits, tokens), "direct_decode_h64_s2") << "instead of " << selected;
        EXPECT_EQ(variant_at(heads, tokens), "sparse_decode_h32" + selected.substr(selected.rfind("_s")));
    }
    EXPECT_EQ(variant_at(plain, 1), "flat_decode_r128_h24_s16");
    EXPECT_EQ(variant_at(heads, 1), "flat_decode_r128_h32_s16") << "the form stays where it has the value";
    EXPECT_EQ(variant_at(splits, 1), "sparse_decode_h32_s2");
    EXPECT_EQ(variant_at(table(problem, R"({"heads": 8})"), 1), "sparse_decode_h8_s8");
    EXPECT_EQ(splits[0].source, "override");
}

TEST(SparseAttentionChoice, FullOverrideAndVariant) {
    const SparseAttentionProblem problem = problem_of(128, {2048});
    const char* const fields = R"({"heads": 64, "splits": 4})";
    EXPECT_EQ(variant_at(table(problem, fields), 1), "sparse_decode_h64_s4");
    EXPECT_EQ(variant_at(table(problem, fields), 64), "direct_decode_h64_s4")
        << "the form stays where it has the values";
    for (const std::int64_t tokens : {1, 64})
        EXPECT_EQ(variant_at(table(problem, R"({"variant": "sparse_decode_h64_s4"})"), tokens), "sparse_decode_h64_s4");
}

TEST(SparseAttentionChoice, BadOverridesAreRefusedNamingKeyAndValue) {
    expect_refused("{", {"TOKAMAK_SPARSE_MLA_CONFIG", "not valid JSON"});
    expect_refused("[1]", {"expected a JSON object"});
    expect_refused(R"({"block": 3})", {"\"block\"", "3"});
    expect_refused(R"({"heads": "many"})", {"\"heads\"", "many"});
    expect_refused(R"({"heads": 48})", {"\"heads\"", "48"});
    expect_refused(R"({"splits": 0})", {"\"splits\"", "0"});
    expect_refused(R"({"variant": "fast"})", {"\"variant\"", "fast"});
}

}  // namespace
}  // namespace tokamak::mla::cuda
