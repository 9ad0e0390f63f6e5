// SPDX-License-Identifier: Apache-2.0
// The wide kernel of fused_moe on a GPU: row counts around the borders of its tiles, many and few routes, sizes that
// are no multiple of a tile, weights at the input, launches in parts.
#include <gtest/gtest.h>

#include <array>

#include "cuda/gpu.h"
#include "moe/gpu_cases.h"

namespace tokamak::moe::test {
namespace {

void expect_wide(const FusedMoeCase& c, std::uint64_t purpose, std::initializer_list<std::int64_t> counts) {
    expect_reference(c, purpose, counts, "wide");
}

/// At least one for what these tests ask.
std::vector<std::string> wide_variants(const FusedMoeProblem& problem) {
    const std::vector<std::string> names = gpu_variants(problem, "wide");
    EXPECT_FALSE(names.empty());
    return names;
}

const std::vector<Format>& wide_formats() {
    static const std::vector<Format> all = {{WeightSpec::bf16()},
                                            {WeightSpec::fp8_block(), true},
                                            {WeightSpec::int4(32)},
                                            {WeightSpec::int4(64)},
                                            {WeightSpec::int4(128)},
                                            {WeightSpec::int4(32), true},
                                            {WeightSpec::mxfp4()},
                                            {WeightSpec::mxfp4(), true},
                                            {WeightSpec::nvfp4()},
                                            {WeightSpec::int4(32, DType::f16)},
                                            {WeightSpec::int4(64, DType::f16)},
                                            {WeightSpec::int4(128, DType::f16)}};
    return all;
}

/// One expert's rows are the tokens: every border of a tile is met.
TEST(FusedMoeWide, RowsAroundTheBordersOfTiles) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1700;
    for (const Format& format : wide_formats()) {
        FusedMoeCase c = gpu_case(format, 400, 288, 160);
        c.problem.num_experts = c.problem.num_local_experts = 1;
        c.problem.top_k = 1;
        c.bad_ids = 0;
        c.gate_up_bias = c.down_bias = true;
        expect_wide(c, purpose++, {1,   8,   15,  16,  17,  31,  32,  33,  40,  41,  47,  48,  49,  56,  57,  63,
                                   64,  65,  80,  81,  95,  96,  97,  127, 128, 129, 136, 144, 145, 160, 161, 191,
                                   208, 209, 255, 256, 257, 272, 287, 288, 289, 300, 321, 336, 337, 385, 400});
    }
}

/// Several results of many terms and no bias: they may be kept in bf16.
TEST(FusedMoeWide, LongSumsAroundTheBordersOfTiles) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1710;
    for (const Format& format : {Format(WeightSpec::bf16()), Format(WeightSpec::int4(32))})
        for (const int hidden : {288, 2080}) {
            FusedMoeCase c = gpu_case(format, 330, hidden, 320);
            c.problem.num_experts = c.problem.num_local_experts = c.problem.top_k = 2;
            c.bad_ids = 0;
            c.shared_output = hidden == 288;
            expect_wide(c, purpose++, {3, 64, 65, 90, 97, 113, 128, 130, 145, 160, 161, 200, 320, 330});
        }
}

TEST(FusedMoeWide, SeveralExperts) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1720;
    for (const Format& format : wide_formats()) {
        FusedMoeCase c = gpu_case(format, 300, 416, 224);
        c.problem.num_experts = 11;
        c.problem.num_local_experts = 9;
        c.problem.top_k = 4;
        c.problem.activation = purpose % 2 == 0 ? Activation::gpt_oss() : Activation::swiglu_clamped(2.0F);
        c.gate_up_bias = c.down_bias = true;
        c.shared_output = true;
        expect_wide(c, purpose++, {1, 9, 64, 65, 200, 300});
    }
}

TEST(FusedMoeWide, OddSizes) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1750;
    const Format fp8(WeightSpec::fp8_block(), true);
    for (const Format& format :
         {Format(WeightSpec::bf16()), fp8, Format(WeightSpec::int4(32)), Format(WeightSpec::mxfp4()),
          Format(WeightSpec::nvfp4()), Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)})
        for (const std::pair<int, int>& size : {std::pair{2880, 704}, {704, 1408}, {96, 2880}, {8224, 32}}) {
            FusedMoeCase c = gpu_case(format, 70, size.first, size.second);
            c.problem.num_experts = c.problem.num_local_experts = 3;
            c.problem.top_k = 2;
            c.placement = Placement::all;
            expect_wide(c, purpose++, {20, 70});
        }
    for (const Format& format : {Format(WeightSpec::bf16()), fp8})
        for (const std::pair<int, int>& size : {std::pair{37, 51}, {130, 7}, {257, 130}}) {
            FusedMoeCase c = gpu_case(format, 40, size.first, size.second);
            expect_wide(c, purpose++, {1, 3, 40});
        }
}

/// Scales of a row 2^40 apart leave any range that an operand of eight bits has.
TEST(FusedMoeWide, ScalesThatGrowAndShrink) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1760;
    for (const bool quantized : {false, true})
        for (const int drift : {6, 14, 40}) {
            FusedMoeCase c = gpu_case(Format(WeightSpec::mxfp4(), quantized), 300, 1120, 576);
            c.problem.num_experts = c.problem.num_local_experts = 2;
            c.problem.top_k = 1;
            c.placement = Placement::all;
            c.scale_drift = drift;
            expect_wide(c, purpose++, {20, 300});
        }
}

TEST(FusedMoeWide, RoutingWeightOnTheInput) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1770;
    for (const Format& format : wide_formats()) {
        FusedMoeCase c = gpu_case(format, 150, 160, 96);
        c.problem.routing_weight = RoutingWeight::input;
        c.weights_dtype = purpose % 2 == 0 ? DType::f32 : DType::bf16;
        c.problem.out_dtype = DType::f32;
        expect_wide(c, purpose++, {1, 8, 150});
    }
}

TEST(FusedMoeWide, NoIdNamesAnExpert) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::fp8_block(), true),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 40, 160, 96);
        c.bad_ids = 1.0;
        expect_wide(c, 1780, {40});
        c.shared_output = true;
        expect_wide(c, 1781, {40});
    }
}

TEST(FusedMoeWide, ManyExperts) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& format : {Format(WeightSpec::mxfp4()), Format(WeightSpec::fp8_block(), true),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 70, 64, 32);
        c.problem.num_experts = 1029;
        c.problem.num_local_experts = 1001;
        c.problem.top_k = 16;
        expect_wide(c, 1790, {70});
    }
}

/// Rows are prepared and tokens combined under the multiplications, also where what is added or stored is not plain.
TEST(FusedMoeWide, LongIntermediates) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1900;
    for (const Format& format : {Format(WeightSpec::bf16()), Format(WeightSpec::int4(32)), Format(WeightSpec::nvfp4()),
                                 Format(WeightSpec::fp8_block(), true), Format(WeightSpec::int4(32), true),
                                 Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 70, 96, 1664);
        expect_wide(c, purpose++, {1, 70});
        c.shared_output = true;
        c.problem.out_dtype = DType::f32;
        c.problem.routing_weight = RoutingWeight::input;
        expect_wide(c, purpose++, {40});
    }
}

/// Tokens are combined one by one as their experts are ready: in several parts of their columns, with more slots than a
/// warp has lanes, and where `out` takes no vectors.
TEST(FusedMoeWide, TokensCombinedWhileOthersMultiply) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1910;
    for (const Format& format :
         {Format(WeightSpec::bf16()), Format(WeightSpec::mxfp4()), Format(WeightSpec::nvfp4())}) {
        FusedMoeCase c = gpu_case(format, 130, 1120, 1536);
        c.problem.top_k = 4;
        c.gate_up_bias = c.down_bias = true;
        expect_wide(c, purpose++, {1, 37, 130});
        c = gpu_case(format, 30, 96, 1536);
        c.problem.num_experts = 48;
        c.problem.num_local_experts = 40;
        c.problem.top_k = 36;
        c.problem.out_dtype = purpose % 2 == 0 ? DType::bf16 : DType::f32;
        expect_wide(c, purpose++, {1, 30});
    }
}

/// Around the numbers of routes up to which every CTA counts all of them, and ids that are never counted so.
TEST(FusedMoeWide, RoutesCountedByAllAndInShares) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1920;
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::mxfp4())}) {
        FusedMoeCase c = gpu_case(format, 1030, 64, 32);
        c.problem.num_experts = 12;
        c.problem.num_local_experts = 9;
        c.problem.top_k = 8;
        expect_wide(c, purpose, {767, 768, 769, 1023, 1024, 1025, 1030});
        Rng rng = rng_for(purpose++);
        const FusedMoeData host = random_data(rng, c);
        const FusedMoeData data = host.on(Device::cuda());
        const std::int64_t slots = c.problem.top_k;
        const OwnedTensor apart = OwnedTensor::allocate(DType::i32, {c.tokens, slots + 3});
        const auto* from = static_cast<const std::int32_t*>(host.args().ids.data);
        for (std::int64_t i = 0; i < c.tokens * slots; ++i) apart.as<std::int32_t>()[i / slots * 3 + i] = from[i];
        const OwnedTensor ids = OwnedTensor::copy_of(apart, Device::cuda());
        const std::array<std::int64_t, 2> shape = {c.tokens, slots};
        const std::array<std::int64_t, 2> strides = {slots + 3, 1};
        FusedMoeArgs strided = data.args();
        strided.ids = Tensor::strided(ids.view().data, DType::i32, shape, strides, Device::cuda());
        for (const std::string& variant : wide_variants(c.problem)) {
            PlanOptions options;
            options.variant = variant;
            const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
            EXPECT_EQ(bytes_of(run_guarded(plan, strided)), bytes_of(run_guarded(plan, data.args())));
        }
    }
}

/// A limit makes it several launches and changes no bit.
TEST(FusedMoeWide, LimitedWorkspace) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::fp8_block(), true),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 300, 160, 96);
        Rng rng = rng_for(1800);
        const FusedMoeData data = random_data(rng, c).on(Device::cuda());
        for (const std::string& variant : wide_variants(c.problem)) {
            PlanOptions options;
            options.variant = variant;
            const FusedMoePlan whole = make_plan(c.problem, Device::cuda(), options);
            options.max_workspace_bytes = whole.workspace().bytes / 3;
            const FusedMoePlan limited = make_plan(c.problem, Device::cuda(), options);
            EXPECT_LE(limited.workspace().bytes, options.max_workspace_bytes);
            EXPECT_EQ(bytes_of(run_guarded(limited, data.args())), bytes_of(run_guarded(whole, data.args())));
        }
    }
}

PlanOptions atomic() {
    PlanOptions options;
    options.combine = Combine::atomic;
    return options;
}

/// Sums in f32 do not show their order.
TEST(FusedMoeWide, ResultsAddedToTheOutput) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1820;
    for (const Format& format : wide_formats()) {
        FusedMoeCase c = gpu_case(format, 200, 416, 224);
        c.problem.top_k = 4;
        c.problem.out_dtype = DType::f32;
        c.gate_up_bias = c.down_bias = true;
        c.shared_output = purpose % 2 == 0;
        expect_reference(c, purpose++, {1, 9, 200}, "wide", atomic());
    }
}

/// By every wide variant.
void expect_same_by_both_combines(const FusedMoeCase& c, const FusedMoeData& data,
                                  const std::vector<std::int64_t>& counts) {
    for (const std::string& variant : wide_variants(c.problem)) {
        SCOPED_TRACE(variant);
        PlanOptions options = atomic();
        options.variant = variant;
        const FusedMoePlan adding = make_plan(c.problem, Device::cuda(), options);
        options.combine = Combine::deterministic;
        const FusedMoePlan keeping = make_plan(c.problem, Device::cuda(), options);
        for (const std::int64_t tokens : counts)
            EXPECT_EQ(values_of(run_guarded(adding, data.args(tokens), 0xFF)),
                      values_of(run_guarded(keeping, data.args(tokens), 0x7F)));
    }
}

/// One result for each row: added to zeros it is the same number, in every type and at any alignment.
TEST(FusedMoeWide, OneResultAddedToZerosIsTheResult) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1830;
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::bf16()),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)})
        for (const DType out : {DType::bf16, DType::f16})
            for (const int hidden : {160, 224, 288}) {
                FusedMoeCase c = gpu_case(format, 150, hidden, 96);
                c.problem.top_k = 1;
                c.problem.out_dtype = out;
                Rng rng = rng_for(purpose++);
                const FusedMoeData data = random_data(rng, c).on(Device::cuda());
                expect_same_by_both_combines(c, data, {1, 60, 150});
            }
}

/// An output that takes no eight columns of bf16 at once has its results added in the order of the slots.
TEST(FusedMoeWide, WhatTakesNoVectorsIsCombinedInOrder) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1845;
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::fp8_block(), true)}) {
        FusedMoeCase c = gpu_case(format, 150, 416, 224);
        c.problem.top_k = 4;
        c.problem.out_dtype = DType::f32;
        Rng rng = rng_for(purpose++);
        const FusedMoeData data = random_data(rng, c).on(Device::cuda());
        expect_same_by_both_combines(c, data, {1, 150});
    }
}

/// Every addition rounds to bf16: half a step of at most the sum of all magnitudes each.
TEST(FusedMoeWide, ResultsAddedInBf16) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1850;
    for (const Format& format : {Format(WeightSpec::mxfp4()), Format(WeightSpec::fp8_block(), true),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 120, 416, 224);
        c.problem.top_k = 4;
        Rng rng = rng_for(purpose++);
        const FusedMoeData host = random_data(rng, c);
        const FusedMoeData data = host.on(Device::cuda());
        Tolerance tolerance = tolerance_of(c.problem);
        tolerance.sums += 2 * c.problem.top_k * unit_roundoff(DType::bf16);
        for (const std::string& variant : wide_variants(c.problem)) {
            PlanOptions options = atomic();
            options.variant = variant;
            const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
            for (int replay = 0; replay < 3; ++replay)
                expect_near(run_guarded(plan, data.args(120)), reference(host), tolerance);
        }
    }
}

/// Tokens with no, one and several results here, in rows of `out` that take vectors and in others: one result may be
/// stored at once, several are added, in the order of the slots or as they come.
TEST(FusedMoeWide, TokensWithNoOneAndSeveralResults) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1870;
    for (const Format& format :
         {Format(WeightSpec::bf16()), Format(WeightSpec::fp8_block(), true), Format(WeightSpec::int4(32)),
          Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)})
        for (const int hidden : {416, 420})
            for (const Combine combine : {Combine::deterministic, Combine::atomic}) {
                FusedMoeCase c = gpu_case(format, 600, hidden, 288);
                c.problem.num_experts = 16;
                c.problem.num_local_experts = 4;
                c.problem.top_k = 4;
                c.down_bias = purpose % 2 == 0;
                Rng rng = rng_for(purpose++);
                const FusedMoeData host = random_data(rng, c);
                const FusedMoeData data = host.on(Device::cuda());
                const std::vector<Expected> want = reference(host);
                Tolerance tolerance = tolerance_of(c.problem);
                if (combine == Combine::atomic) tolerance.sums += 2 * c.problem.top_k * unit_roundoff(DType::bf16);
                for (const std::string& variant : wide_variants(c.problem)) {
                    PlanOptions options;
                    options.variant = variant;
                    options.combine = combine;
                    const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
                    for (const std::int64_t tokens : {1, 40, 600}) {
                        SCOPED_TRACE(variant + ", tokens " + std::to_string(tokens));
                        const std::vector<Expected> head(want.begin(), want.begin() + tokens * c.problem.hidden);
                        expect_near(run_guarded(plan, data.args(tokens), tokens % 2 == 0 ? 0xFF : 0x7F), head,
                                    tolerance);
                    }
                }
            }
}

/// A large call, a small one and the large one again share a workspace that nobody clears.
TEST(FusedMoeWide, LargeSmallLargeOnOneWorkspace) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& format : {Format(WeightSpec::mxfp4()), Format(WeightSpec::fp8_block(), true),
                                 Format(WeightSpec::int4(32), true), Format(WeightSpec::mxfp4(), true)}) {
        FusedMoeCase c = gpu_case(format, 300, 416, 224);
        Rng rng = rng_for(1810);
        const FusedMoeData data = random_data(rng, c).on(Device::cuda());
        for (const std::string& variant : wide_variants(c.problem)) {
            PlanOptions options;
            options.variant = variant;
            const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
            const OwnedWorkspace workspace(plan.workspace(), Device::cuda());
            const auto result = [&](std::int64_t tokens) {
                const OwnedTensor out = fused_moe(plan, data.args(tokens), workspace);
                synchronize(Device::cuda());
                return bytes_of(out);
            };
            const auto large = result(300);
            const auto small = result(9);
            EXPECT_EQ(result(300), large);
            EXPECT_EQ(result(9), small);
            EXPECT_EQ(std::vector<std::byte>(large.begin(), large.begin() + static_cast<std::ptrdiff_t>(small.size())),
                      small);
        }
    }
}

}  // namespace
}  // namespace tokamak::moe::test
