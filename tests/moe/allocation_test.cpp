// SPDX-License-Identifier: Apache-2.0
// A program of its own: operator new is replaced to see that `run` never comes there.
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "moe/logit_cases.h"
#include "support/count_allocations.h"
#include "tokamak/moe.h"

namespace tokamak::moe::test {
namespace {

using tokamak::test::count_allocations;

template <class AnyPlan, class Args>
void expect_no_allocation(const AnyPlan& plan, const Args& args, Device device) {
    const OwnedWorkspace workspace(plan.workspace(), device);
    run(plan, args, workspace);  // OpenMP starts its threads once
    EXPECT_EQ(count_allocations([&] { run(plan, args, workspace); }), 0) << plan.op() << " on " << to_string(device);
}

void check_fused_moe(Device device) {
    for (const WeightSpec& spec : {WeightSpec::bf16(), WeightSpec::fp8_block(), WeightSpec::int4(32)})
        for (const std::int64_t tokens : {1, 40}) {
            FusedMoeCase c;
            c.tokens = tokens;
            c.problem = {.max_tokens = tokens,
                         .hidden = 128,
                         .intermediate = 96,
                         .num_experts = 6,
                         .num_local_experts = 4,
                         .top_k = 3,
                         .weights = spec};
            c.placement = Placement::scattered;
            Rng rng = rng_for(9900);
            const FusedMoeData data = random_data(rng, c).on(device);
            const OwnedTensor out = OwnedTensor::allocate(c.problem.out_dtype, {tokens, 128}, device);
            FusedMoeArgs args = data.args();
            args.out = out;
            expect_no_allocation(make_plan(c.problem, device), args, device);
        }
}

void check_fused_moe_from_logits(Device device) {
    for (const RuleCase& rule : rule_cases())
        for (const std::int64_t tokens : {1, 40}) {
            const FusedMoeCase c = logit_case(rule, WeightSpec::int4(32), tokens);
            Rng rng = rng_for(9902);
            const LogitData data = logit_data(rng, c, rule.bias).on(device);
            FusedMoeArgs args = data.args(tokens);
            const OwnedTensor out = OwnedTensor::allocate(c.problem.out_dtype, {tokens, c.problem.hidden}, device);
            args.out = out;
            expect_no_allocation(make_plan(c.problem, device), args, device);
        }
}

void check_routed_gemm(Device device) {
    RoutedGemmCase c;
    c.tokens = 9;
    c.problem = {.max_tokens = 9, .rows = 53, .cols = 96, .num_experts = 6, .top_k = 3, .weights = WeightSpec::mxfp4()};
    Rng rng = rng_for(9901);
    const RoutedGemmData data = random_data(rng, c).on(device);
    RoutedGemmArgs args = data.args();
    const OwnedTensor out = OwnedTensor::allocate(c.problem.out_dtype, {9, 53}, device);
    args.out = out;
    expect_no_allocation(make_plan(c.problem, device), args, device);
}

OwnedTensor zeros(DType dtype, std::initializer_list<std::int64_t> shape, Device device) {
    OwnedTensor tensor = OwnedTensor::allocate(dtype, shape, device);
    fill_bytes(tensor.view().data, device, 0, tensor.view().bytes());
    return tensor;
}

void check_small_operators(Device device) {
    const OwnedTensor ids = zeros(DType::i32, {40, 3}, device);
    const OwnedTensor weights = zeros(DType::f32, {40, 3}, device);

    const AlignProblem align{.max_tokens = 40, .top_k = 3, .num_experts = 6, .block_size = 16};
    const AlignSizes sizes = align_sizes(align, 40);
    const OwnedTensor sorted = zeros(DType::i32, {sizes.max_padded}, device);
    const OwnedTensor experts = zeros(DType::i32, {sizes.max_blocks}, device);
    const OwnedTensor count = zeros(DType::i32, {1}, device);
    AlignArgs aligned;
    aligned.tokens = 40;
    aligned.ids = ids;
    aligned.sorted_token_ids = sorted;
    aligned.expert_ids = experts;
    aligned.num_tokens_post_padded = count;
    expect_no_allocation(make_plan(align, device), aligned, device);

    const OwnedTensor logits = zeros(DType::f32, {40, 6}, device);
    RouteArgs routed;
    routed.tokens = 40;
    routed.logits = logits;
    routed.ids = ids;
    routed.weights = weights;
    expect_no_allocation(make_plan(RouteProblem{.max_tokens = 40, .num_experts = 6, .top_k = 3}, device), routed,
                         device);

    const OwnedTensor y = zeros(DType::bf16, {40, 3, 64}, device);
    const OwnedTensor out = zeros(DType::bf16, {40, 64}, device);
    SumReduceArgs sums;
    sums.tokens = 40;
    sums.y = y;
    sums.weights = weights;
    sums.out = out;
    expect_no_allocation(make_plan(SumReduceProblem{.max_tokens = 40, .top_k = 3, .hidden = 64}, device), sums, device);
}

void check_all(Device device) {
    check_fused_moe(device);
    check_fused_moe_from_logits(device);
    check_routed_gemm(device);
    check_small_operators(device);
}

TEST(MoeAllocation, CallsOnTheCpuDoWithout) { check_all(Device::cpu()); }

TEST(MoeAllocation, CallsOnAGpuDoWithout) {
    TOKAMAK_REQUIRE_GPU();
    check_all(Device::cuda());
}

}  // namespace
}  // namespace tokamak::moe::test
