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
    for (const Format& format : formats())
        for (const Activation& activation : {Activation::swiglu(), Activation::swiglu_clamped(0.8F),
                                             Activation::gpt_oss(1.702F, 0.9F), Activation::gpt_oss(0.5F, 0.0F)}) {
            FusedMoeCase c = gpu_case(format, 17, 160, 96);
            c.problem.activation = activation;
            c.gate_up_bias = c.down_bias = activation.kind == ActivationKind::gpt_oss;
            expect_reference(c, purpose++, {0, 1, 3, 8, 9, 17});
        }
}

TEST(FusedMoeGpu, EveryOption) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 100;
    const std::vector<RoutingWeight> places = {RoutingWeight::output, RoutingWeight::input, RoutingWeight::none};
    for (const Format& format : formats())
        for (unsigned options = 0; options < 24; ++options) {
            FusedMoeCase c = gpu_case(format, 11, 96, 64);
            c.gate_up_bias = (options & 1U) != 0;
            c.down_bias = (options & 2U) != 0;
            c.shared_output = (options & 4U) != 0;
            c.problem.routing_weight = places[options / 8];
            c.bias_dtype = options % 3 == 0 ? DType::bf16 : DType::f32;
            c.weights_dtype = options % 2 == 0 ? DType::bf16 : DType::f32;
            c.ids_dtype = options % 3 == 1 ? DType::i64 : DType::i32;
            c.placement = static_cast<Placement>(options % 3);
            if (c.placement == Placement::all) c.problem.num_local_experts = 0;
            c.problem.out_dtype = options % 3 == 0 ? DType::f32 : options % 3 == 1 ? DType::f16 : DType::bf16;
            expect_reference(c, purpose++, {5, 11});
        }
}

/// A token that names an expert again has another row there, times another weight.
TEST(FusedMoeGpu, InputWeightsOfRepeatedExperts) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 400;
    for (const Format& format : formats()) {
        FusedMoeCase c = gpu_case(format, 11, 160, 96);
        c.problem.routing_weight = RoutingWeight::input;
        c.problem.num_experts = c.problem.num_local_experts = 2;
        c.problem.top_k = 5;
        expect_reference(c, purpose++, {1, 8, 11});
    }
}

TEST(FusedMoeGpu, ShapesThatFillTheDevice) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 200;
    for (const Format& format : formats()) {
        FusedMoeCase c = gpu_case(format, 8, 1152, 352);
        c.problem.num_experts = 14;
        c.problem.num_local_experts = 11;
        c.problem.top_k = 6;
        expect_reference(c, purpose++, {1, 8});
    }
}

/// Rows that no tile and (33, 45) no vector divides.
TEST(FusedMoeGpu, OddSizes) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 250;
    const std::vector<std::pair<std::int64_t, std::int64_t>> sizes = {{2880, 96}, {96, 2880}, {704, 1408}, {1408, 704},
                                                                      {33, 45},   {1, 1},     {136, 33}};
    for (const Format& format : formats())
        for (const auto& size : sizes) {
            FusedMoeCase c = gpu_case(format, 3, size.first, size.second);
            c.problem.num_experts = c.problem.num_local_experts = 2;
            c.problem.top_k = 2;
            expect_reference(c, purpose++, {3});
        }
}

TEST(FusedMoeGpu, LongRows) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 300;
    for (const Format& format : formats()) {
        FusedMoeCase c = gpu_case(format, 8, 7168, 64);
        if (format.weights == WeightSpec::mxfp4()) c.problem.hidden = c.problem.intermediate = 2880;
        c.problem.num_experts = c.problem.num_local_experts = 2;
        c.problem.top_k = 2;
        expect_reference(c, purpose++, {8});
    }
}

TEST(FusedMoeGpu, ExpertsAndTopK) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 330;
    for (const Format& format : formats())
        for (const int experts : {1, 3, 257, 1024}) {
            FusedMoeCase c = gpu_case(format, 8, 48, 32);
            c.problem.num_experts = experts;
            c.problem.num_local_experts = experts > 3 ? experts - 3 : experts;
            c.problem.top_k = static_cast<int>(purpose % 16) + 1;
            expect_reference(c, purpose++, {1, 8});
        }
}

TEST(FusedMoeGpu, RandomShapes) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(450);
    for (std::uint64_t round = 0; round < 40; ++round) {
        const Format& format = formats()[round % formats().size()];
        FusedMoeCase c = gpu_case(format, uniform_int(rng, 1, 23), uniform_int(rng, 1, 700), uniform_int(rng, 1, 400));
        c.problem.max_tokens = c.tokens + uniform_int(rng, 0, 40);
        c.problem.num_experts = static_cast<int>(uniform_int(rng, 1, 40));
        c.problem.num_local_experts = static_cast<int>(uniform_int(rng, 1, c.problem.num_experts));
        c.problem.top_k = static_cast<int>(uniform_int(rng, 1, 11));
        c.problem.routing_weight = static_cast<RoutingWeight>(uniform_int(rng, 0, 2));
        c.placement = static_cast<Placement>(uniform_int(rng, 1, 2));
        expect_reference(c, 451 + round, {c.tokens});
    }
}

TEST(FusedMoeGpu, OneExpertTakesEverything) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 500;
    for (const Format& format : formats()) {
        FusedMoeCase c = gpu_case(format, 17, 288, 160);
        c.problem.num_experts = c.problem.num_local_experts = 1;
        c.bad_ids = 0;
        expect_reference(c, purpose++, {1, 8, 17});
    }
}

/// Weights that nobody asked for are not even looked at, and a bad row stays with its token.
TEST(FusedMoeGpu, NanElsewhereStaysThere) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& format : formats()) {
        FusedMoeCase c = gpu_case(format, 6, 128, 128);
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
}

TEST(FusedMoeGpu, WhatIsMissingIsRefusedWithTheReason) {
    TOKAMAK_REQUIRE_GPU();
    const FusedMoeProblem good = gpu_case({WeightSpec::int4(32)}, 8, 128, 96).problem;
    EXPECT_TRUE(supports(good, Device::cuda()));
    const auto refused = [&](auto change, const std::vector<std::string>& parts) {
        FusedMoeProblem p = good;
        change(p);
        expect_unsupported(p, parts, ErrorCode::unsupported, Device::cuda());
    };
    refused([](auto& p) { p.act_dtype = DType::f16; }, {"act_dtype", "f16"});
    refused([](auto& p) { p.out_dtype = DType::f64; }, {"f64"});
    refused(  // too long for the wide kernel, too many slots for the grouped one
        [](auto& p) {
            p.hidden = (1 << 20) + 64;
            p.num_experts = p.num_local_experts = 64;
            p.top_k = 33;
        },
        {"hidden 1048640", "top_k 33", "shared memory"});
}

}  // namespace
}  // namespace tokamak::moe::test
