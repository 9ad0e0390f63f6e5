// SPDX-License-Identifier: Apache-2.0
// Which problems the kernel for one token takes, and with which rings.
#include <gtest/gtest.h>

#include <algorithm>

#include "moe/cuda/single/single_plan.h"
#include "tokamak/moe/fused_moe.h"

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
    return single_variants(*single_instance(problem.weights, problem.weights.format == WeightFormat::fp8_block),
                           problem, kMultiprocessors, kSharedLimit);
}

std::string chosen(const FusedMoeProblem& problem) {
    const auto variants = variants_of(problem);
    return variants
        .at(choose_single(*single_instance(problem.weights, problem.weights.format == WeightFormat::fp8_block),
                          variants, problem, kMultiprocessors))
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

/// Most strips that a run of tiles touches, when `pieces` tiles are cut into runs of `each` within runs of `outer`.
std::int64_t most_touched(std::int64_t pieces, std::int64_t outer, std::int64_t each, std::int64_t tiles) {
    std::int64_t most = 0;
    for (std::int64_t begin = 0; begin < pieces; begin += outer)
        for (std::int64_t first = begin; first < std::min(begin + outer, pieces); first += each) {
            const std::int64_t last = std::min({first + each, begin + outer, pieces}) - 1;
            most = std::max(most, last / tiles - first / tiles + 1);
        }
    return most;
}

/// The cuts of phase.cuh, for every number of live routes.
void expect_room(const FusedMoeProblem& problem, const SingleVariant& variant, int warps) {
    const PackedLayout layouts[] = {gate_up_layout(problem), down_layout(problem)};
    const std::int64_t segments[] = {variant.gate_up_segments, variant.down_segments};
    for (int routes = 1; routes <= problem.top_k; ++routes)
        for (int phase = 0; phase < 2; ++phase) {
            const auto tiles = static_cast<std::int64_t>(layouts[phase].tiles);
            const std::int64_t pieces = routes * static_cast<std::int64_t>(layouts[phase].strips) * tiles;
            const std::int64_t cta = std::max<std::int64_t>(1, (pieces + kMultiprocessors - 1) / kMultiprocessors);
            EXPECT_LE(most_touched(pieces, cta, cta, tiles), segments[phase]) << routes << " routes, phase " << phase;
            EXPECT_LE(most_touched(pieces, cta, (cta + warps - 1) / warps, tiles), variant.shared.warp_segments)
                << routes << " routes, phase " << phase;
        }
}

TEST(SingleChoice, WhatIsPublishedFitsTheRunsOfEveryShape) {
    for (const int size : {1, 33, 64, 704, 2880, 7168})
        for (const int intermediate : {32, 96, 2048})
            for (const int top_k : {1, 8, 32})
                for (const WeightSpec& weights : {WeightSpec::bf16(), WeightSpec::fp8_block()}) {
                    const FusedMoeProblem problem = problem_of(weights, 32, top_k, size, intermediate);
                    SCOPED_TRACE(to_string(weights) + " " + std::to_string(size) + " x " +
                                 std::to_string(intermediate));
                    for (const SingleVariant& variant : variants_of(problem)) {
                        expect_room(problem, variant,
                                    single_instance(weights, weights.format == WeightFormat::fp8_block)->warps);
                        EXPECT_LE(variant.shared.bytes, static_cast<int>(kSharedLimit));
                    }
                }
}

}  // namespace
}  // namespace tokamak::moe::cuda
