// SPDX-License-Identifier: Apache-2.0
// fused_moe against its definition in double: every format, activation and option.
#include <gtest/gtest.h>

#include <algorithm>

#include "moe/moe_cases.h"

namespace tokamak::moe::test {
namespace {

const std::vector<WeightSpec>& all_formats() {
    static const std::vector<WeightSpec> formats = {
        WeightSpec::bf16(),    WeightSpec::fp8_block(),          WeightSpec::int4(32), WeightSpec::int4(64),
        WeightSpec::int4(128), WeightSpec::int4(32, DType::f16), WeightSpec::mxfp4(),  WeightSpec::nvfp4()};
    return formats;
}

/// Those that activations in e4m3 meet.
const std::vector<WeightSpec>& quantised_formats() {
    static const std::vector<WeightSpec> formats = {WeightSpec::fp8_block(), WeightSpec::int4(32), WeightSpec::mxfp4()};
    return formats;
}

/// Sizes that no tile divides, as far as the format allows.
std::int64_t odd_size(const WeightSpec& spec, std::int64_t about) {
    switch (spec.format) {
        case WeightFormat::bf16:
        case WeightFormat::fp8_block: return about + 5;
        default: return (about / spec.group_size + 1) * spec.group_size;
    }
}

FusedMoeCase small_case(const WeightSpec& spec) {
    FusedMoeCase c;
    c.tokens = 7;
    c.problem = {.max_tokens = 9,
                 .hidden = odd_size(spec, 90),
                 .intermediate = odd_size(spec, 33),
                 .num_experts = 5,
                 .top_k = 3,
                 .weights = spec};
    return c;
}

Tolerance default_tolerance(const FusedMoeProblem& p) {
    return tolerance_for(p.weights, Accumulation::f32,
                         {p.act_dtype, p.out_dtype, p.routing_weight == RoutingWeight::input, p.quantize_activations});
}

/// The oracle must give the reference, the default variant must stay within its roundings.
void expect_both_variants(const FusedMoeCase& c, std::uint64_t purpose) {
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(purpose);
    const FusedMoeData data = random_data(rng, c);
    const std::vector<Expected> want = reference(data);

    FusedMoeProblem exact = c.problem;
    exact.out_dtype = DType::f64;
    const FusedMoePlan oracle = make_plan(exact, Device::cpu());
    EXPECT_EQ(oracle.row_for(c.tokens).variant, "cpu_f64");
    const Tolerance rounding_free = tolerance_for(exact.weights, Accumulation::f64, {exact.act_dtype, exact.out_dtype});
    expect_near(run_guarded(oracle, data.args()), want, rounding_free);

    const FusedMoePlan plan = make_plan(c.problem, Device::cpu());
    EXPECT_EQ(plan.row_for(c.tokens).variant, "cpu_f32");
    expect_near(run_guarded(plan, data.args()), want, default_tolerance(c.problem));
}

TEST(FusedMoeNumerics, EveryFormatWithEveryActivation) {
    std::uint64_t purpose = 1;
    for (const WeightSpec& spec : all_formats())
        for (const Activation& activation :
             {Activation::swiglu(), Activation::swiglu_clamped(0.8F), Activation::gpt_oss(1.702F, 0.9F),
              Activation::gpt_oss(0.5F, 0.0F), Activation::swiglu_clamped(-1.0F)}) {
            FusedMoeCase c = small_case(spec);
            c.problem.activation = activation;
            expect_both_variants(c, purpose++);
        }
    for (const WeightSpec& spec : quantised_formats())
        for (const Activation& activation :
             {Activation::swiglu(), Activation::swiglu_clamped(0.8F), Activation::gpt_oss(1.702F, 0.9F)})
            for (const DType act : {DType::bf16, DType::f16, DType::f32}) {
                FusedMoeCase c = small_case(spec);
                c.problem.activation = activation;
                c.problem.act_dtype = act;
                c.problem.quantize_activations = true;
                expect_both_variants(c, purpose++);
            }
}

TEST(FusedMoeNumerics, EveryFormatWithEveryType) {
    std::uint64_t purpose = 100;
    for (const WeightSpec& spec : all_formats())
        for (const DType act : {DType::bf16, DType::f16, DType::f32})
            for (const DType out : {DType::bf16, DType::f16, DType::f32}) {
                FusedMoeCase c = small_case(spec);
                c.problem.act_dtype = act;
                c.problem.out_dtype = out;
                expect_both_variants(c, purpose++);
            }
}

TEST(FusedMoeNumerics, BiasesSharedOutputAndPlacesOfTheWeight) {
    std::uint64_t purpose = 200;
    for (const RoutingWeight place : {RoutingWeight::output, RoutingWeight::input, RoutingWeight::none})
        for (const bool quantize : {false, true})
            for (int options = 0; options < 8; ++options) {
                const WeightSpec quantised = quantised_formats()[static_cast<std::size_t>(options) % 3];
                FusedMoeCase c = small_case(quantize ? quantised : WeightSpec::mxfp4());
                c.problem.routing_weight = place;
                c.problem.quantize_activations = quantize;
                c.gate_up_bias = (options & 1) != 0;
                c.down_bias = (options & 2) != 0;
                c.shared_output = (options & 4) != 0;
                c.bias_dtype = options % 3 == 0 ? DType::bf16 : DType::f32;
                c.weights_dtype = options % 2 == 0 ? DType::bf16 : DType::f32;
                expect_both_variants(c, purpose++);
            }
}

TEST(FusedMoeNumerics, RandomShapes) {
    Rng rng = rng_for(300);
    for (std::uint64_t round = 0; round < 24; ++round) {
        const WeightSpec& spec = all_formats()[round % all_formats().size()];
        FusedMoeCase c = small_case(spec);
        c.tokens = uniform_int(rng, 1, 23);
        c.problem.max_tokens = c.tokens + uniform_int(rng, 0, 40);
        c.problem.hidden = odd_size(spec, uniform_int(rng, 1, 260));
        c.problem.intermediate = odd_size(spec, uniform_int(rng, 1, 200));
        c.problem.num_experts = static_cast<int>(uniform_int(rng, 1, 9));
        c.problem.num_local_experts = static_cast<int>(uniform_int(rng, 1, c.problem.num_experts));
        c.problem.top_k = static_cast<int>(uniform_int(rng, 1, 11));
        const auto& quantised = quantised_formats();
        c.problem.quantize_activations =
            round % 3 != 0 && std::find(quantised.begin(), quantised.end(), spec) != quantised.end();
        c.placement = static_cast<Placement>(uniform_int(rng, 1, 2));
        c.ids_dtype = round % 2 == 0 ? DType::i64 : DType::i32;
        c.bad_ids = 0.15;
        expect_both_variants(c, 301 + round);
    }
}

TEST(FusedMoeNumerics, SumsOverMoreThanOnePieceOfColumns) {
    FusedMoeCase c = small_case(WeightSpec::fp8_block());
    c.tokens = 2;
    c.problem.hidden = 2880;
    c.problem.num_experts = 2;
    c.problem.top_k = 1;
    expect_both_variants(c, 400);
    c.problem.quantize_activations = true;
    c.problem.hidden = 97;
    c.problem.intermediate = 1100;
    expect_both_variants(c, 401);
}

TEST(FusedMoeNumerics, QuantisingZerosGivesZeros) {
    FusedMoeCase c = small_case(WeightSpec::fp8_block());
    c.problem.quantize_activations = true;
    c.x_scale = 0;
    Rng rng = rng_for(450);
    const FusedMoeData data = random_data(rng, c);
    for (const double value : values_of(run_guarded(make_plan(c.problem, Device::cpu()), data.args())))
        ASSERT_EQ(value, 0.0);
}

TEST(FusedMoeNumerics, AsManyExpertsAsAllowed) {
    FusedMoeCase c = small_case(WeightSpec::bf16());
    c.tokens = c.problem.max_tokens = 300;
    c.problem.hidden = 9;
    c.problem.intermediate = 3;
    c.problem.num_experts = 4096;
    c.problem.num_local_experts = 1023;
    c.problem.top_k = 64;
    c.placement = Placement::scattered;
    expect_both_variants(c, 460);
}

/// Most quantised results must not merely stay in the wide bound for codes that fell to the other side; nor are
/// weights rounded, those of int4 neither: fp8_block has no roundings of 16 bits to allow for.
TEST(FusedMoeNumerics, QuantisationFollowsTheDefinition) {
    std::uint64_t purpose = 500;
    for (const WeightSpec& spec : quantised_formats()) {
        FusedMoeCase c = small_case(spec);
        c.tokens = 40;
        c.problem.max_tokens = 40;
        c.problem.hidden = odd_size(spec, 295);
        c.problem.intermediate = odd_size(spec, 145);
        c.problem.quantize_activations = true;
        c.problem.out_dtype = DType::f32;
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(purpose++);
        const FusedMoeData data = random_data(rng, c);
        const OwnedTensor out = run_guarded(make_plan(c.problem, Device::cpu()), data.args());
        FusedMoeProblem exact = c.problem;
        exact.weights = WeightSpec::fp8_block();
        Tolerance tight = default_tolerance(exact);
        tight.activations = 0;
        EXPECT_GT(share_within(out, reference(data), tight), 0.8);
    }
}

/// The only rounding between the GEMMs is that of the activation to act_dtype.
TEST(FusedMoeNumerics, ActivationIsRoundedOnceAndNothingElseIs) {
    FusedMoeCase c = small_case(WeightSpec::mxfp4());
    c.tokens = 30;
    c.problem.max_tokens = 30;
    c.problem.out_dtype = DType::f32;
    c.gate_up_bias = c.down_bias = true;
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(600);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor out = run_guarded(make_plan(c.problem, Device::cpu()), data.args());
    Tolerance tight = default_tolerance(c.problem);
    tight.activations = 0;
    EXPECT_GT(share_within(out, reference(data, DType::bf16), tight), 0.9);
    EXPECT_LT(share_within(out, reference(data), tight), 0.5);
}

}  // namespace
}  // namespace tokamak::moe::test
