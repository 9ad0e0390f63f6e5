// SPDX-License-Identifier: Apache-2.0
// Which experts take part in fused_moe, and that those who do not leave no trace.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "moe/cpu/activation.h"
#include "moe/moe_cases.h"

namespace tokamak::moe::test {
namespace {

FusedMoeCase routed_case(const WeightSpec& spec = WeightSpec::bf16()) {
    FusedMoeCase c;
    c.tokens = 12;
    c.problem = {.max_tokens = 12, .hidden = 64, .intermediate = 32, .num_experts = 6, .top_k = 3, .weights = spec};
    return c;
}

OwnedTensor run_on_cpu(const FusedMoeData& data, const FusedMoeArgs& args) {
    return run_guarded(make_plan(data.c.problem, Device::cpu()), args);
}
OwnedTensor run_on_cpu(const FusedMoeData& data) { return run_on_cpu(data, data.args()); }

void set_id(const FusedMoeData& data, std::int64_t token, std::int64_t slot, double id) {
    put(data.routing.ids.view().data, data.c.ids_dtype, token * data.c.problem.top_k + slot, id);
}

/// Every rank holds some experts; the partial results add up to the result of all.
class PartialSums : public ::testing::TestWithParam<Placement> {};

TEST_P(PartialSums, OfAllRanksAreTheWhole) {
    FusedMoeCase c = routed_case(WeightSpec::mxfp4());
    c.problem.out_dtype = DType::f64;
    c.gate_up_bias = c.down_bias = true;
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(1);
    const FusedMoeData whole = random_data(rng, c);
    const std::vector<double> want = values_of(run_on_cpu(whole));

    // Experts 0, 1, ... in order, or dealt out at random; rank r holds two of the six.
    std::vector<int> dealt = {0, 1, 2, 3, 4, 5};
    if (GetParam() == Placement::scattered) std::shuffle(dealt.begin(), dealt.end(), rng);
    std::vector<double> sum(want.size(), 0.0);
    for (int rank = 0; rank < 3; ++rank) {
        const std::vector<int> mine = {dealt[static_cast<std::size_t>(2 * rank)],
                                       dealt[static_cast<std::size_t>(2 * rank + 1)]};
        FusedMoeData part = whole.on(Device::cpu());
        part.c.problem.num_local_experts = 2;
        part.gate_up = whole.gate_up.select(mine);
        part.down = whole.down.select(mine);
        std::vector<double> biases[2];
        for (const int expert : mine) {
            const std::vector<double> gate_up = values_of(whole.gate_up_bias.view().at(expert));
            const std::vector<double> down = values_of(whole.down_bias.view().at(expert));
            biases[0].insert(biases[0].end(), gate_up.begin(), gate_up.end());
            biases[1].insert(biases[1].end(), down.begin(), down.end());
        }
        part.gate_up_bias = tensor_of(DType::bf16, {2, 64}, biases[0]);
        part.down_bias = tensor_of(DType::bf16, {2, 64}, biases[1]);
        if (GetParam() == Placement::scattered) {
            std::vector<double> map(6, -1);
            map[static_cast<std::size_t>(mine[0])] = 0;
            map[static_cast<std::size_t>(mine[1])] = 1;
            part.routing.expert_map = tensor_of(DType::i32, {6}, map);
        } else {
            part.routing.first_expert = 2 * rank;
        }
        const std::vector<double> partial = values_of(run_on_cpu(part));
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += partial[i];
    }
    for (std::size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sum[i], want[i], 1e-12 * (1 + std::fabs(want[i])));
}

INSTANTIATE_TEST_SUITE_P(FusedMoe, PartialSums, ::testing::Values(Placement::range, Placement::scattered));

TEST(FusedMoeRouting, OneExpertTakesAllTokensAndDuplicatesCountTwice) {
    FusedMoeCase c = routed_case();
    c.tokens = c.problem.max_tokens = 37;
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(2);
    const FusedMoeData data = random_data(rng, c);
    for (std::int64_t token = 0; token < c.tokens; ++token)
        for (std::int64_t slot = 0; slot < c.problem.top_k; ++slot) set_id(data, token, slot, 4);
    expect_near(run_on_cpu(data), reference(data),
                tolerance_for(c.problem.weights, Accumulation::f32, {DType::bf16, DType::bf16}));
}

TEST(FusedMoeRouting, TokenWithoutLocalExpertGetsSharedOutputOrZero) {
    for (const bool shared : {false, true}) {
        FusedMoeCase c = routed_case();
        c.shared_output = shared;
        c.gate_up_bias = c.down_bias = true;
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(3);
        const FusedMoeData data = random_data(rng, c);
        for (std::int64_t slot = 0; slot < c.problem.top_k; ++slot) {
            set_id(data, 5, slot, -1);
            set_id(data, 11, slot, c.problem.num_experts + slot);
        }
        const OwnedTensor out = run_on_cpu(data);
        for (const std::int64_t token : {5, 11})
            for (std::int64_t i = 0; i < c.problem.hidden; ++i) {
                const auto bits = out.as<std::uint16_t>()[token * c.problem.hidden + i];
                const auto want =
                    shared ? data.shared_output.as<std::uint16_t>()[token * c.problem.hidden + i] : std::uint16_t{0};
                ASSERT_EQ(bits, want);
            }
    }
}

TEST(FusedMoeRouting, MaskedRoutesLeaveNoTrace) {
    FusedMoeCase c = routed_case();
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(4);
    FusedMoeData data = random_data(rng, c);
    for (std::int64_t token = 0; token < c.tokens; ++token) set_id(data, token, 1, token % 2 == 0 ? -3 : 1 << 20);
    const std::vector<std::byte> masked = bytes_of(run_on_cpu(data));
    // A NaN weight of a masked route is not looked at.
    for (std::int64_t token = 0; token < c.tokens; ++token)
        put(data.routing.weights.view().data, DType::f32, token * 3 + 1, std::nan(""));
    EXPECT_EQ(bytes_of(run_on_cpu(data)), masked);
}

TEST(FusedMoeRouting, NanWeightsReachOnlyTheTokensOfTheirExpert) {
    const FusedMoeCase c = routed_case();
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(5);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor clean = run_on_cpu(data);
    std::memset(data.gate_up.packed.view().at(2).data, 0xFF, data.gate_up.layout.matrix_bytes);
    const OwnedTensor out = run_on_cpu(data);
    int touched = 0;
    for (std::int64_t token = 0; token < c.tokens; ++token) {
        bool uses = false;
        for (std::int64_t slot = 0; slot < 3; ++slot) uses = uses || data.routing.row(token, slot) == 2;
        touched += uses ? 1 : 0;
        if (uses)
            for (const double value : values_of(out.view().at(token))) ASSERT_TRUE(std::isnan(value));
        else
            ASSERT_EQ(bytes_of(out.view().at(token)), bytes_of(clean.view().at(token)));
    }
    EXPECT_GT(touched, 0);
}

TEST(FusedMoeRouting, NanInOneTokenStaysInIt) {
    const FusedMoeCase c = routed_case();
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(6);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor clean = run_on_cpu(data);
    put(data.x.view().data, DType::bf16, 4 * c.problem.hidden + 7, std::nan(""));
    const OwnedTensor out = run_on_cpu(data);
    for (std::int64_t token = 0; token < c.tokens; ++token)
        if (token != 4) {
            ASSERT_EQ(bytes_of(out.view().at(token)), bytes_of(clean.view().at(token)));
        }
    for (const double value : values_of(out.view().at(4))) ASSERT_TRUE(std::isnan(value));
    // Rows past the token count are not read either.
    const FusedMoePlan plan = make_plan(c.problem, Device::cpu());
    const OwnedTensor leading_rows = run_guarded(plan, data.args(4));
    EXPECT_EQ(bytes_of(leading_rows), bytes_of(clean.view().first_rows(4)));
}

TEST(FusedMoeRouting, ZeroWeightStillMultiplies) {
    FusedMoeCase c = routed_case();
    Rng rng = rng_for(7);
    const FusedMoeData data = random_data(rng, c);
    std::memset(data.down.packed.view().at(1).data, 0xFF, data.down.layout.matrix_bytes);
    set_id(data, 0, 0, 1);
    put(data.routing.weights.view().data, DType::f32, 0, 0.0);
    EXPECT_TRUE(std::isnan(values_of(run_on_cpu(data))[0]));
}

TEST(FusedMoeRouting, CheckIdsRefusesAndNames) {
    FusedMoeCase c = routed_case();
    Rng rng = rng_for(8);
    const FusedMoeData data = random_data(rng, c);
    set_id(data, 7, 2, 6);
    PlanOptions options;
    options.check_ids = true;
    const FusedMoePlan plan = make_plan(c.problem, Device::cpu(), options);
    const GuardedBuffer out(static_cast<std::size_t>(c.tokens * c.problem.hidden) * 2, Device::cpu(), 0x5A);
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    FusedMoeArgs args = data.args();
    args.out = out.tensor(DType::bf16, {c.tokens, c.problem.hidden});
    try {
        run(plan, args, workspace);
        FAIL() << "an id past the experts was taken";
    } catch (const Error& error) {
        EXPECT_STREQ(error.what(), "fused_moe: `ids` of token 7, slot 2 is 6, expected 0 to 5");
    }
    for (const std::byte byte : out.contents()) ASSERT_EQ(byte, std::byte{0x5A});
    // Tokens past the count are not looked at.
    const OwnedTensor count = tensor_of(DType::i32, {1}, {7});
    args.num_tokens = count;
    EXPECT_NO_THROW(run(plan, args, workspace));
}

TEST(Activate, LimitsOfInfinityAndNan) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    const float nan = std::nanf("");
    const Activation swiglu = Activation::swiglu();
    const Activation clamped = Activation::swiglu_clamped(2.0F);
    const Activation oss = Activation::gpt_oss(1.5F, 2.0F);
    EXPECT_EQ(cpu::activate(swiglu, -inf, 3.0F), 0.0F);
    EXPECT_EQ(cpu::activate(swiglu, -200.0F, 3.0F), 0.0F);
    EXPECT_EQ(cpu::activate(swiglu, inf, 3.0F), inf);
    EXPECT_EQ(cpu::activate(oss, -inf, 3.0F), 0.0F);
    EXPECT_EQ(cpu::activate(clamped, inf, -inf), cpu::activate(swiglu, 2.0F, -2.0F));
    EXPECT_EQ(cpu::activate(clamped, -50.0F, 9.0F), cpu::activate(swiglu, -50.0F, 2.0F));
    for (const Activation& activation : {swiglu, clamped, oss}) {
        EXPECT_TRUE(std::isnan(cpu::activate(activation, nan, 1.0F)));
        EXPECT_TRUE(std::isnan(cpu::activate(activation, 1.0F, nan)));
    }
}

}  // namespace
}  // namespace tokamak::moe::test
