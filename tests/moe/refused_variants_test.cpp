// SPDX-License-Identifier: Apache-2.0
// What cannot run a problem is listed with the reason, and what can is not.
#include "moe/cuda/refused_variants.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moe/cuda/pass_workspace.h"

namespace tokamak::moe::cuda {
namespace {

struct Sorted {
    std::vector<std::string> legal;
    std::vector<std::pair<std::string, std::string>> refused;

    /// Whether a kernel is listed at all, by itself or by a variant.
    [[nodiscard]] bool knows(const std::string& kernel) const {
        return !reason(kernel).empty() || std::any_of(legal.begin(), legal.end(), [&](const std::string& variant) {
            return variant.rfind(kernel, 0) == 0;
        });
    }
    /// The reason of a variant, or of its kernel.
    [[nodiscard]] std::string reason(const std::string& name) const {
        for (const auto& [variant, why] : refused)
            if (variant.rfind(name, 0) == 0) return why;
        return {};
    }
};

Sorted sorted(const FusedMoeProblem& problem, std::size_t shared_bytes = 232448) {
    DeviceInfo info;
    info.compute_capability = 90;
    info.multiprocessors = 132;
    info.shared_memory_bytes = shared_bytes;
    FusedMoeCuda cuda{.grid = info.multiprocessors};
    cuda.pass_tokens = pass_tokens(problem, {}, cuda, false);
    cuda.grid_pass_tokens = pass_tokens(problem, {}, cuda, true);
    cuda.wide_tokens = wide_tokens(problem, {}, cuda);
    cuda.gather_tokens = gather_pass_tokens(problem);
    const LegalVariants legal = legal_variants(problem, cuda, info, {});
    return {legal.names(), refused_variants(problem, cuda, info, legal)};
}

FusedMoeProblem problem_of(const WeightSpec& weights, int top_k = 8) {
    return {.max_tokens = 1024,
            .hidden = 7168,
            .intermediate = 2048,
            .num_experts = 64,
            .top_k = top_k,
            .weights = weights,
            .quantize_activations = weights.format == WeightFormat::fp8_block};
}

TEST(RefusedVariants, AreNeverLegalOnesAndHaveAReason) {
    for (const WeightSpec& weights : {WeightSpec::bf16(), WeightSpec::fp8_block(), WeightSpec::int4(32),
                                      WeightSpec::int4(128), WeightSpec::mxfp4(), WeightSpec::nvfp4()})
        for (const int top_k : {1, 8, 33}) {
            SCOPED_TRACE(to_string(weights) + " top_k " + std::to_string(top_k));
            const Sorted all = sorted(problem_of(weights, top_k));
            for (const auto& [variant, reason] : all.refused) {
                EXPECT_EQ(std::find(all.legal.begin(), all.legal.end(), variant), all.legal.end()) << variant;
                EXPECT_FALSE(reason.empty()) << variant;
            }
            for (const char* kernel : {"decode", "gather", "grouped", "wide", "single"})
                EXPECT_TRUE(all.knows(kernel)) << kernel << " is neither legal nor refused";
        }
}

/// 4-bit weights with e4m3 activations: none but the wide kernel, whose variants multiply in 16 bits or, where scales
/// are powers of two, in 8.
TEST(RefusedVariants, QuantisedActivationsWithFourBitWeights) {
    for (const WeightSpec& weights : {WeightSpec::int4(32), WeightSpec::mxfp4()})
        for (const int top_k : {1, 8}) {
            FusedMoeProblem problem = problem_of(weights, top_k);
            problem.quantize_activations = true;
            const Sorted all = sorted(problem);
            std::vector<std::string> legal = {"wide_n96_bf16", "wide_n64_bf16"};
            if (weights.format == WeightFormat::mxfp4) legal.insert(legal.begin(), "wide_n128");
            EXPECT_EQ(all.legal, legal);
            for (const std::string kernel : {"decode", "gather", "grouped", "single"})
                EXPECT_EQ(all.reason(kernel), "no kernel for " + to_string(weights) + " with e4m3 activations")
                    << kernel;
        }
}

TEST(RefusedVariants, SayWhatIsMissing) {
    EXPECT_NE(sorted(problem_of(WeightSpec::int4(32), 33)).reason("grouped").find("top_k is 33"), std::string::npos);
    EXPECT_NE(sorted(problem_of(WeightSpec::int4(32), 33)).reason("single").find("top_k is 33"), std::string::npos);
    FusedMoeProblem weighted = problem_of(WeightSpec::int4(32));
    weighted.routing_weight = RoutingWeight::input;
    EXPECT_NE(sorted(weighted).reason("single").find("token rows"), std::string::npos);
    const Sorted small = sorted(problem_of(WeightSpec::int4(32)), 100'000);
    EXPECT_EQ(small.reason("wide"), "does not fit into 100000 bytes of shared memory");
    FusedMoeProblem long_rows = problem_of(WeightSpec::bf16());
    long_rows.hidden = (1 << 20) + 64;
    EXPECT_NE(sorted(long_rows).reason("wide").find("1048576 columns, not 1048640"), std::string::npos);
    FusedMoeProblem batched = problem_of(WeightSpec::int4(32), 1);
    batched.batched_experts = true;
    for (const char* kernel : {"decode", "gather", "single"})
        EXPECT_NE(sorted(batched).reason(kernel).find("grouped by expert"), std::string::npos) << kernel;
}

}  // namespace
}  // namespace tokamak::moe::cuda
