// SPDX-License-Identifier: Apache-2.0
// Which kernel a call gets where neither options nor tables say otherwise, on an H200.
#include <gtest/gtest.h>

#include "moe/cuda/legal_variants.h"
#include "moe/cuda/pass_workspace.h"

namespace tokamak::moe::cuda {
namespace {

FusedMoeProblem problem_of(const WeightSpec& weights, int experts, std::int64_t hidden, std::int64_t intermediate,
                           int top_k) {
    return {.max_tokens = 16384,
            .hidden = hidden,
            .intermediate = intermediate,
            .num_experts = experts,
            .top_k = top_k,
            .weights = weights,
            .quantize_activations = weights.format == WeightFormat::fp8_block};
}

/// The variant on a device like the H200.
std::string name(const FusedMoeProblem& problem, std::int64_t tokens, const PlanOptions& options = {}) {
    DeviceInfo info;
    info.compute_capability = 90;
    info.multiprocessors = 132;
    info.shared_memory_bytes = 232448;
    FusedMoeCuda cuda{.grid = info.multiprocessors};
    cuda.pass_tokens = pass_tokens(problem, options, cuda, false);
    cuda.grid_pass_tokens = pass_tokens(problem, options, cuda, true);
    cuda.wide_tokens = wide_tokens(problem, options, cuda);
    cuda.gather_tokens = gather_pass_tokens(problem);
    const LegalVariants legal = legal_variants(problem, cuda, info, options);
    return default_variant(problem, cuda, legal, tokens);
}

/// Its family, e.g. "gather".
std::string family(const FusedMoeProblem& problem, std::int64_t tokens, const PlanOptions& options = {}) {
    const std::string variant = name(problem, tokens, options);
    return variant.substr(0, variant.find('_'));
}

const FusedMoeProblem kKimi = problem_of(WeightSpec::int4(32), 48, 7168, 2048, 8);
const FusedMoeProblem kFewRows = problem_of(WeightSpec::int4(32), 256, 7168, 256, 8);  // dsv3-tp8
const FusedMoeProblem kGptOss = problem_of(WeightSpec::mxfp4(), 128, 2880, 2880, 4);
const FusedMoeProblem kFp8 = problem_of(WeightSpec::fp8_block(), 32, 7168, 2048, 8);
const FusedMoeProblem kNvfp4 = problem_of(WeightSpec::nvfp4(), 32, 7168, 2048, 8);

TEST(DefaultVariant, OneTokenAndOnePassOfTheDecodeKernel) {
    for (const FusedMoeProblem& p : {kKimi, kFewRows, kGptOss, kFp8, kNvfp4}) {
        EXPECT_EQ(family(p, 1), "single");
        EXPECT_EQ(family(p, 2), "decode");
        EXPECT_EQ(family(p, 8), "decode");
    }
    FusedMoeProblem weighted = kKimi;
    weighted.routing_weight = RoutingWeight::input;
    EXPECT_EQ(family(weighted, 1), "decode") << "the kernel for one token does not weigh rows";
}

TEST(DefaultVariant, RowsAreGatheredWhileExpertsHaveFewOfThem) {
    for (const std::int64_t tokens : {9, 64, 128}) EXPECT_EQ(family(kFewRows, tokens), "gather") << tokens;
    EXPECT_EQ(family(kGptOss, 64), "gather");
    EXPECT_EQ(family(kKimi, 64), "grouped");
    EXPECT_EQ(family(kFewRows, 136), "grouped") << "a second pass reads weights again";
    EXPECT_EQ(family(kKimi, 32), "grouped") << "one in eleven experts has more than 8 rows";
    EXPECT_EQ(family(kFp8, 32), "grouped");
    EXPECT_EQ(family(kNvfp4, 16), "gather") << "4 rows of an expert";
    EXPECT_EQ(family(kNvfp4, 64), "grouped") << "16";
}

TEST(DefaultVariant, ManyRowsGoToTheWideKernelLongOnesSooner) {
    EXPECT_EQ(family(kKimi, 167), "grouped");
    EXPECT_EQ(family(kKimi, 168), "wide") << "28 rows of an expert";
    const FusedMoeProblem groups = problem_of(WeightSpec::int4(128), 48, 7168, 2048, 8);
    EXPECT_EQ(family(groups, 287), "grouped");
    EXPECT_EQ(family(groups, 288), "wide") << "48";
    EXPECT_EQ(family(kGptOss, 831), "grouped");
    EXPECT_EQ(family(kGptOss, 832), "wide") << "26";
    EXPECT_EQ(family(problem_of(WeightSpec::bf16(), 256, 7168, 2048, 8), 255), "grouped");
    EXPECT_EQ(family(problem_of(WeightSpec::bf16(), 256, 7168, 2048, 8), 256), "wide") << "8";
    EXPECT_EQ(family(kNvfp4, 127), "grouped");
    EXPECT_EQ(family(kNvfp4, 128), "wide") << "32";
    FusedMoeProblem share = problem_of(WeightSpec::int4(32), 256, 7168, 2048, 8);
    share.num_local_experts = 32;
    EXPECT_EQ(family(share, 767), "grouped");
    EXPECT_EQ(family(share, 768), "wide") << "24";
    EXPECT_EQ(family(kFp8, 47), "grouped");
    EXPECT_EQ(family(kFp8, 48), "wide") << "12 rows of an expert";
    FusedMoeProblem exact = kFp8;
    exact.quantize_activations = false;
    EXPECT_EQ(family(exact, 16384), "grouped") << "there is no wide kernel";
}

TEST(DefaultVariant, RowTilesAreAsWideAsExpertsHaveRows) {
    EXPECT_EQ(name(kKimi, 168), "wide_n64");
    EXPECT_EQ(name(kKimi, 287), "wide_n64");
    EXPECT_EQ(name(kKimi, 288), "wide_n96") << "48 rows of an expert";
    EXPECT_EQ(name(kGptOss, 832), "wide_n48");
    EXPECT_EQ(name(kGptOss, 1151), "wide_n48");
    EXPECT_EQ(name(kGptOss, 1152), "wide_n64") << "36 rows of an expert";
    EXPECT_EQ(name(kNvfp4, 128), "wide_n48");
    EXPECT_EQ(name(kNvfp4, 144), "wide_n64");
    EXPECT_EQ(name(kKimi, 16384), "wide_n96") << "scales of 32 columns";
    EXPECT_EQ(name(kNvfp4, 16384), "wide_n96") << "of 16";
    EXPECT_EQ(name(kGptOss, 2303), "wide_n96");
    EXPECT_EQ(name(kGptOss, 2304), "wide_n128") << "72";
    EXPECT_EQ(name(problem_of(WeightSpec::int4(128), 48, 7168, 2048, 8), 288), "wide_n128") << "there is no other";
}

/// Rows of e4m3 are multiplied in 16 bits where experts have few of them, by row tiles as wide as these.
TEST(DefaultVariant, FourBitWeightsAreConvertedToEightForManyRowsOfE4m3) {
    for (FusedMoeProblem p : {kGptOss, kKimi}) {
        p.quantize_activations = true;
        const std::int64_t per_row = p.num_experts / p.top_k;  // tokens
        const bool converts = p.weights.format == WeightFormat::mxfp4;
        EXPECT_EQ(name(p, 1), "wide_n64_bf16");
        EXPECT_EQ(name(p, 48 * per_row - 1), "wide_n64_bf16");
        EXPECT_EQ(name(p, 48 * per_row), "wide_n96_bf16");
        EXPECT_EQ(name(p, 320 * per_row - 1), "wide_n96_bf16");
        EXPECT_EQ(name(p, 320 * per_row), converts ? "wide_n128" : "wide_n96_bf16");
    }
}

TEST(DefaultVariant, GroupedWeightsAreConvertedForWgmmaFrom30RowsOn) {
    const FusedMoeProblem groups = problem_of(WeightSpec::int4(128), 48, 7168, 2048, 8);
    EXPECT_EQ(name(groups, 179), "grouped_r384");
    EXPECT_EQ(name(groups, 180), "grouped_r256");
}

TEST(DefaultVariant, TheGroupedKernelCombinesUpTo32Slots) {
    FusedMoeProblem exact = problem_of(WeightSpec::fp8_block(), 64, 1024, 512, 32);
    exact.quantize_activations = false;
    EXPECT_EQ(family(exact, 4096), "grouped");
    exact.top_k = 33;
    EXPECT_EQ(family(exact, 4096), "gather");
    EXPECT_EQ(family(problem_of(WeightSpec::bf16(), 64, 1024, 512, 40), 4096), "wide");
    EXPECT_EQ(family(problem_of(WeightSpec::bf16(), 64, 65536, 512, 33), 1), "wide") << "rows too long for the others";
}

TEST(DefaultVariant, LimitedWorkspacesKeepTheKernelsAndShortenTheirPasses) {
    PlanOptions options;
    options.max_workspace_bytes = std::size_t{64} << 20;
    FusedMoeCuda cuda{.grid = 132};
    EXPECT_LT(pass_tokens(kKimi, options, cuda, false), pass_tokens(kKimi, {}, cuda, false));
    EXPECT_LT(wide_tokens(kKimi, options, cuda), wide_tokens(kKimi, {}, cuda));
    EXPECT_EQ(family(kKimi, 64, options), "grouped");
    EXPECT_EQ(family(kKimi, 16384, options), "wide");
}

}  // namespace
}  // namespace tokamak::moe::cuda
