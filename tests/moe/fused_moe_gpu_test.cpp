// SPDX-License-Identifier: Apache-2.0
// fused_moe on a GPU against its definition in double: formats, activations, options, shapes, every variant.
#include <gtest/gtest.h>

#include <cstring>

#include "cuda/gpu.h"
#include "moe/gpu_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

TEST(FusedMoeGpu, FormatsActivationsAndTokenCounts) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1;
    for (const WeightSpec& spec : formats())
        for (const Activation& activation : {Activation::swiglu(), Activation::swiglu_clamped(0.8F),
                                             Activation::gpt_oss(1.702F, 0.9F), Activation::gpt_oss(0.5F, 0.0F)}) {
            FusedMoeCase c = gpu_case(spec, 17, 160, 96);
            c.problem.activation = activation;
            c.gate_up_bias = c.down_bias = activation.kind == ActivationKind::gpt_oss;
            expect_reference(c, purpose++, {0, 1, 3, 8, 9, 17});
        }
}

TEST(FusedMoeGpu, EveryOption) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 100;
    for (const WeightSpec& spec : {WeightSpec::int4(32), WeightSpec::mxfp4()})
        for (unsigned options = 0; options < 16; ++options) {
            FusedMoeCase c = gpu_case(spec, 5, 96, 64);
            c.gate_up_bias = (options & 1U) != 0;
            c.down_bias = (options & 2U) != 0;
            c.shared_output = (options & 4U) != 0;
            c.problem.routing_weight = (options & 8U) != 0 ? RoutingWeight::none : RoutingWeight::output;
            c.bias_dtype = options % 3 == 0 ? DType::bf16 : DType::f32;
            c.weights_dtype = options % 2 == 0 ? DType::bf16 : DType::f32;
            c.ids_dtype = options % 3 == 1 ? DType::i64 : DType::i32;
            c.placement = static_cast<Placement>(options % 3);
            if (c.placement == Placement::all) c.problem.num_local_experts = 0;
            c.problem.out_dtype = options % 3 == 0 ? DType::f32 : options % 3 == 1 ? DType::f16 : DType::bf16;
            expect_reference(c, purpose++, {5});
        }
}

TEST(FusedMoeGpu, ShapesThatFillTheDevice) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 200;
    for (const WeightSpec& spec : formats()) {
        FusedMoeCase c = gpu_case(spec, 8, 1152, 352);
        c.problem.num_experts = 14;
        c.problem.num_local_experts = 11;
        c.problem.top_k = 6;
        expect_reference(c, purpose++, {1, 8});
    }
}

TEST(FusedMoeGpu, LongRowsAndManyExperts) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase wide = gpu_case(WeightSpec::int4(32), 8, 7168, 64);
    wide.problem.num_experts = wide.problem.num_local_experts = 2;
    wide.problem.top_k = 2;
    wide.placement = Placement::all;
    expect_reference(wide, 300, {8});
    wide.problem.weights = WeightSpec::mxfp4();
    wide.problem.hidden = 2880;
    wide.problem.intermediate = 2880;
    expect_reference(wide, 301, {3});
    FusedMoeCase many = gpu_case(WeightSpec::mxfp4(), 8, 32, 32);
    many.problem.num_experts = 1029;
    many.problem.num_local_experts = 1001;
    many.problem.top_k = 16;
    expect_reference(many, 302, {8});
}

TEST(FusedMoeGpu, RandomShapes) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(400);
    for (std::uint64_t round = 0; round < 24; ++round) {
        const WeightSpec& spec = formats()[round % formats().size()];
        FusedMoeCase c = gpu_case(spec, uniform_int(rng, 1, 23), uniform_int(rng, 1, 700), uniform_int(rng, 1, 400));
        c.problem.max_tokens = c.tokens + uniform_int(rng, 0, 40);
        c.problem.num_experts = static_cast<int>(uniform_int(rng, 1, 40));
        c.problem.num_local_experts = static_cast<int>(uniform_int(rng, 1, c.problem.num_experts));
        c.problem.top_k = static_cast<int>(uniform_int(rng, 1, 11));
        c.placement = static_cast<Placement>(uniform_int(rng, 1, 2));
        expect_reference(c, 401 + round, {c.tokens});
    }
}

TEST(FusedMoeGpu, OneExpertTakesEverything) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(WeightSpec::int4(32), 17, 288, 160);
    c.problem.num_experts = c.problem.num_local_experts = 1;
    c.bad_ids = 0;
    expect_reference(c, 500, {1, 8, 17});
}

/// Weights that nobody asked for are not even looked at, and a bad row stays with its token.
TEST(FusedMoeGpu, NanElsewhereStaysThere) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(WeightSpec::int4(32), 6, 128, 96);
    c.placement = Placement::all;
    c.problem.num_experts = c.problem.num_local_experts = 4;
    c.problem.top_k = 2;
    Rng rng = rng_for(600);
    FusedMoeData host = random_data(rng, c);
    std::vector<double> ids;
    for (int i = 0; i < 12; ++i) ids.push_back(i % 3);
    host.routing.ids = tensor_of(DType::i32, {6, 2}, ids);
    std::vector<Expected> want = reference(host);
    for (const Experts* experts : {&host.gate_up, &host.down})
        std::memset(experts->packed.view().at(3).data, 0xFF, experts->layout.matrix_bytes);
    std::memset(host.x.view().at(4).data, 0xFF, 256);
    const FusedMoeData data = host.on(Device::cuda());
    const OwnedTensor got = run_guarded(make_plan(c.problem, Device::cuda()), data.args());
    const std::vector<double> values = values_of(got);
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i / 128 == 4)
            EXPECT_TRUE(std::isnan(values[i]));
        else
            EXPECT_LE(std::fabs(values[i] - want[i].value), allowed(tolerance_of(c.problem), want[i]));
    }
}

TEST(FusedMoeGpu, WhatIsMissingIsRefusedWithTheReason) {
    TOKAMAK_REQUIRE_GPU();
    const FusedMoeProblem good = gpu_case(WeightSpec::int4(32), 8, 128, 96).problem;
    EXPECT_TRUE(supports(good, Device::cuda()));
    const auto refused = [&](auto change, const std::vector<std::string>& parts) {
        FusedMoeProblem p = good;
        change(p);
        expect_unsupported(p, parts, ErrorCode::unsupported, Device::cuda());
    };
    refused([](auto& p) { p.weights = WeightSpec::bf16(); }, {"bf16", "int4_g32"});
    refused([](auto& p) { p.weights = WeightSpec::fp8_block(); }, {"fp8_block"});
    refused([](auto& p) { p.weights = WeightSpec::int4(32, DType::f16); }, {"int4_g32_f16"});
    refused([](auto& p) { p.act_dtype = DType::f16; }, {"act_dtype", "f16"});
    refused([](auto& p) { p.out_dtype = DType::f64; }, {"f64"});
}

}  // namespace
}  // namespace tokamak::moe::test
