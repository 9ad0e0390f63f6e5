// SPDX-License-Identifier: Apache-2.0
// Rows grouped by expert on a GPU, by every variant that takes them.
#include <array>

#include "cuda/gpu.h"
#include "moe/batched_cases.h"
#include "moe/gpu_cases.h"

namespace tokamak::moe::test {
namespace {

std::vector<std::string> batched_variants(FusedMoeProblem problem) {
    problem.batched_experts = true;
    return gpu_variants(problem, "");
}

/// The variants of ids give the same bits: rows of one expert are multiplied in the same order.
TEST(FusedMoeBatchedGpu, GivesWhatIdsGiveAndLeavesOtherRows) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::array<std::int32_t, 5> live = {70, 0, 200, -3, 9};
    std::uint64_t purpose = 2650;
    for (const Format& format : formats()) {
        FusedMoeCase c = batched_case(format.weights, 130, 5);
        c.problem.quantize_activations = format.quantized;
        const std::vector<std::string> variants = batched_variants(c.problem);
        EXPECT_FALSE(variants.empty());
        for (const std::string& variant : variants)
            expect_batched(c, live, Device::cuda(), purpose++, {.variant = variant});
    }
}

TEST(FusedMoeBatchedGpu, RunsInPartsWhereTheWorkspaceIsLimited) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::array<std::int32_t, 4> live = {33, 64, 0, 50};
    FusedMoeCase c = batched_case(WeightSpec::int4(32), 64, 4);
    c.problem.batched_experts = true;
    const std::size_t all = make_plan(c.problem, Device::cuda()).workspace().bytes;
    c.problem.batched_experts = false;
    PlanOptions options;
    options.max_workspace_bytes = all / 2;
    expect_batched(c, live, Device::cuda(), 2690, options);
}

}  // namespace
}  // namespace tokamak::moe::test
