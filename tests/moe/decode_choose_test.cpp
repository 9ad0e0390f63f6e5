// SPDX-License-Identifier: Apache-2.0
// Which teams of the decode kernel a token count selects: those that were measured as the best of their shape, or
// within 1% of them (docs/kernels/moe_decode.md).
#include <gtest/gtest.h>

#include "moe/cuda/decode_plan.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kMultiprocessors = 132;
constexpr std::size_t kSharedLimit = 232448;  ///< of a block on Hopper

struct Shape {
    const char* name;
    WeightSpec weights;
    int experts;
    int top_k;
    int hidden;
    int intermediate;
};

FusedMoeProblem problem_of(const Shape& shape) {
    return {.max_tokens = 256,
            .hidden = shape.hidden,
            .intermediate = shape.intermediate,
            .num_experts = shape.experts,
            .top_k = shape.top_k,
            .weights = shape.weights};
}

DecodeVariant chosen_gather(const Shape& shape, std::int64_t tokens) {
    const FusedMoeProblem problem = problem_of(shape);
    const DecodeInstance instance = *gather_instance(shape.weights, shape.weights.format == WeightFormat::fp8_block);
    const auto variants = gather_variants(instance, problem, gather_pass_tokens(problem), kSharedLimit);
    return variants.at(choose_gather_variant(instance, variants, problem, tokens));
}

std::string chosen(const Shape& shape, std::int64_t tokens) {
    const FusedMoeProblem problem = problem_of(shape);
    const DecodeInstance instance = *decode_instance(shape.weights, shape.weights.format == WeightFormat::fp8_block);
    const auto variants = decode_variants(instance, problem, kSharedLimit);
    return variants.at(choose_variant(instance, variants, problem, kMultiprocessors, tokens)).name;
}

const Shape kKimi{"kimi-k2-e48", WeightSpec::int4(32), 48, 8, 7168, 2048};
const Shape kGptOss{"gpt-oss-120b", WeightSpec::mxfp4(), 128, 4, 2880, 2880};
const Shape kFlash{"v4-flash-tp4", WeightSpec::mxfp4(), 256, 6, 4096, 512};
const Shape kDeepSeek{"dsv3-tp8", WeightSpec::int4(32), 256, 8, 7168, 256};
const Shape kQwen{"qwen3-30b-a3b", WeightSpec::int4(128), 128, 8, 2048, 768};

TEST(DecodeChoice, TakesTheTeamsThatWereMeasuredAsTheBest) {
    for (const std::int64_t tokens : {1, 2, 4, 8}) {
        EXPECT_EQ(chosen(kKimi, tokens), "decode_n8_g2x4_d2x4") << tokens;
        EXPECT_EQ(chosen(kGptOss, tokens), "decode_n8_g2x6_d2x6") << tokens;
        EXPECT_EQ(chosen(kQwen, tokens), "decode_n8_g2x4_d4x2") << tokens;
        EXPECT_EQ(chosen(kDeepSeek, tokens), tokens <= 2 ? "decode_n8_g1x8_d8x1" : "decode_n8_g2x4_d8x1") << tokens;
    }
    EXPECT_EQ(chosen(kFlash, 1), "decode_n8_g1x12_d12x1");
    EXPECT_EQ(chosen(kFlash, 2), "decode_n8_g2x6_d12x1");
    EXPECT_EQ(chosen(kFlash, 8), "decode_n8_g3x4_d12x1");
}

TEST(DecodeChoice, PassesOfMoreTokensAreThoseOfEight) {
    for (const Shape& shape : {kKimi, kGptOss, kFlash, kDeepSeek, kQwen})
        for (const std::int64_t tokens : {9, 64, 100000})
            EXPECT_EQ(chosen(shape, tokens), chosen(shape, 8)) << shape.name;
}

TEST(DecodeChoice, GatheredRowsTakeTheTeamsThatWereMeasuredAsTheBest) {
    for (const std::int64_t tokens : {9, 64}) {
        EXPECT_EQ(chosen_gather(kGptOss, tokens).name, "gather_n8_g2x6_d2x6") << tokens;
        EXPECT_EQ(chosen_gather(kQwen, tokens).name, "gather_n8_g2x4_d8x1") << tokens;
        EXPECT_EQ(chosen_gather(kFlash, tokens).name, "gather_n6_g2x6_d12x1") << tokens;
    }
    EXPECT_EQ(chosen_gather(kDeepSeek, 64).name, "gather_n6_g1x12_d12x1");
    EXPECT_EQ(chosen_gather(kDeepSeek, 128).name, "gather_n8_g1x12_d12x1");
}

/// Reads of an expert's weights: one while its rows fit a group, one for each group and pass beyond that.
TEST(DecodeChoice, ReadsFollowTheRowsOfAnExpert) {
    const auto reads = [](const Shape& shape, std::int64_t tokens, std::int64_t pass, int rows) {
        return expected_reads(problem_of(shape), tokens, pass, rows);
    };
    EXPECT_NEAR(reads(kDeepSeek, 64, 128, 8), 1.0, 0.01);
    EXPECT_NEAR(reads(kFlash, 64, 128, 6), 1.0, 0.02);
    EXPECT_LT(reads(kQwen, 64, 128, 8), kMostGatherReads);
    EXPECT_LT(reads(kKimi, 16, 128, 8), kMostGatherReads);
    EXPECT_GT(reads(kKimi, 64, 128, 8), kMostGatherReads);
    const Shape one{"one expert", WeightSpec::int4(32), 1, 1, 64, 64};
    EXPECT_EQ(reads(one, 8, 128, 8), 1.0);
    EXPECT_EQ(reads(one, 9, 128, 8), 2.0);
    EXPECT_EQ(reads(one, 200, 128, 8), 25.0);
    EXPECT_EQ(reads(one, 24, 12, 8), 4.0);
}

TEST(DecodeChoice, PassesOfGatheredRowsHoldTheirRoutes) {
    FusedMoeProblem problem = problem_of(kQwen);
    EXPECT_EQ(gather_pass_tokens(problem), kGatherTokens);
    problem.top_k = 16;
    EXPECT_EQ(gather_pass_tokens(problem), kGatherRoutes / 16);
    problem.max_tokens = 20;
    EXPECT_EQ(gather_pass_tokens(problem), kGatherRoutes / 16) << "a table's variants are those of every plan";
}

TEST(DecodeChoice, EveryLegalShapeGetsSome) {
    for (const int experts : {1, 3, 1024})
        for (const int size : {32, 96, 704, 2880}) {
            const Shape shape{"odd", WeightSpec::int4(32), experts, 1, size, size};
            for (const std::int64_t tokens : {0, 1, 8}) EXPECT_FALSE(chosen(shape, tokens).empty());
        }
}

}  // namespace
}  // namespace tokamak::moe::cuda
