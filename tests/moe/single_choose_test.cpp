// SPDX-License-Identifier: Apache-2.0
// Which problems the kernel for one token takes, and with which rings.
#include <gtest/gtest.h>

#include "moe/cuda/single/single_plan.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kMultiprocessors = 132;
constexpr std::size_t kSharedLimit = 232448;  ///< of a block on Hopper

FusedMoeProblem problem_of(const WeightSpec& weights, int experts, int top_k, int hidden, int intermediate) {
    return {.max_tokens = 1,
            .hidden = hidden,
            .intermediate = intermediate,
            .num_experts = experts,
            .top_k = top_k,
            .weights = weights};
}

std::vector<SingleVariant> variants_of(const FusedMoeProblem& problem) {
    return single_variants(*single_instance(problem.weights, true), problem, kMultiprocessors, kSharedLimit);
}

std::string chosen(const FusedMoeProblem& problem) {
    const auto variants = variants_of(problem);
    return variants.at(choose_single(*single_instance(problem.weights, true), variants, problem, kMultiprocessors))
        .name;
}

TEST(SingleChoice, TakesTheRingsThatWereMeasuredAsTheBest) {
    EXPECT_EQ(chosen(problem_of(WeightSpec::int4(32), 48, 8, 7168, 2048)), "single_s3");  // kimi-k2-e48
    EXPECT_EQ(chosen(problem_of(WeightSpec::nvfp4(), 32, 8, 7168, 2048)), "single_s3");   // dsv3-e32
    EXPECT_EQ(chosen(problem_of(WeightSpec::int4(32), 256, 8, 7168, 256)), "single_s2");  // dsv3-tp8
    EXPECT_EQ(chosen(problem_of(WeightSpec::mxfp4(), 256, 6, 4096, 512)), "single_s2");   // v4-flash-tp4
    EXPECT_EQ(chosen(problem_of(WeightSpec::mxfp4(), 128, 4, 2880, 2880)), "single_s2");  // gpt-oss-120b
    EXPECT_EQ(chosen(problem_of(WeightSpec::bf16(), 128, 8, 2048, 768)), "single_s2");    // qwen3-30b-a3b
    EXPECT_EQ(chosen(problem_of(WeightSpec::fp8_block(), 32, 8, 7168, 2048)), "single_s2");
}

TEST(SingleChoice, LeavesToOthersWhatItDoesNotDo) {
    const FusedMoeProblem good = problem_of(WeightSpec::int4(32), 64, 32, 1024, 512);
    EXPECT_FALSE(variants_of(good).empty());
    FusedMoeProblem p = good;
    p.top_k = 33;
    EXPECT_TRUE(variants_of(p).empty());
    p = good;
    p.routing_weight = RoutingWeight::input;
    EXPECT_TRUE(variants_of(p).empty());
    p = good;
    p.hidden = 1 << 22;  // no row of this length fits
    EXPECT_TRUE(variants_of(p).empty());
}

TEST(SingleChoice, WhatIsPublishedFitsTheRunsOfEveryShape) {
    for (const int size : {1, 33, 64, 704, 2880, 7168})
        for (const int top_k : {1, 8, 32})
            for (const SingleVariant& variant : variants_of(problem_of(WeightSpec::bf16(), 32, top_k, size, 96))) {
                EXPECT_GE(variant.gate_up_segments, 1) << size;
                EXPECT_GE(variant.shared.warp_segments, 1) << size;
                EXPECT_LE(variant.shared.bytes, static_cast<int>(kSharedLimit)) << size;
            }
}

}  // namespace
}  // namespace tokamak::moe::cuda
