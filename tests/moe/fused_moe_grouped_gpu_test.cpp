// SPDX-License-Identifier: Apache-2.0
// The grouped kernel of fused_moe on a GPU: row counts around the borders of its tiles and passes, and what the decode
// kernel does not take. Every variant runs every case.
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/gpu.h"
#include "moe/gpu_cases.h"

namespace tokamak::moe::test {
namespace {

/// One expert's rows are the tokens: every border of a tile is met.
TEST(FusedMoeGrouped, RowsAroundTheBordersOfTiles) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 700;
    for (const Format& spec : formats()) {
        FusedMoeCase c = gpu_case(spec, 200, 288, 160);
        c.problem.num_experts = c.problem.num_local_experts = 1;
        c.problem.top_k = 1;
        c.bad_ids = 0;
        c.gate_up_bias = c.down_bias = true;
        expect_reference(c, purpose++, {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 97, 129, 193, 200});
    }
}

TEST(FusedMoeGrouped, BatchesOfManyRoutes) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 720;
    for (const Format& spec : formats()) {
        FusedMoeCase c = gpu_case(spec, 200, 416, 224);
        c.problem.num_experts = 37;
        c.problem.num_local_experts = 29;
        c.problem.top_k = 8;
        expect_reference(c, purpose++, {9, 16, 17, 64, 65, 200});
    }
}

/// Tiles of different widths take different matrix instructions, and units of one or two strips too: a row's bits do
/// not depend on what else its expert has.
TEST(FusedMoeGrouped, RowsDoNotDependOnTheirTile) {
    TOKAMAK_REQUIRE_GPU();
    for (const WeightSpec& spec :
         {WeightSpec::nvfp4(), WeightSpec::mxfp4(), WeightSpec::int4(32), WeightSpec::int4(128)}) {
        FusedMoeCase c = gpu_case(spec, 70, 1088, 416);
        c.problem.num_experts = c.problem.num_local_experts = 1;
        c.problem.top_k = 1;
        c.bad_ids = 0;
        Rng rng = rng_for(735);
        const FusedMoeData data = random_data(rng, c).on(Device::cuda());
        for (const std::string& variant : gpu_variants(c.problem, "grouped")) {
            PlanOptions options;
            options.variant = variant;
            const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
            const std::vector<std::byte> all = bytes_of(run_guarded(plan, data.args()));
            for (const std::int64_t tokens : {1, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49}) {
                const std::vector<std::byte> some = bytes_of(run_guarded(plan, data.args(tokens)));
                EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << variant << " " << tokens;
            }
        }
    }
}

/// A rank that has one in six of the experts, so that many tokens have no result here.
FusedMoeCase rank_case(const Format& format, std::int64_t max_tokens, int hidden, int intermediate, int top_k) {
    FusedMoeCase c = gpu_case(format, max_tokens, hidden, intermediate);
    c.problem.num_experts = 24;
    c.problem.num_local_experts = 4;
    c.problem.top_k = top_k;
    return c;
}

/// Tokens with no, one and several results here, in rows of `out` that take vectors and in others: rows without a
/// result may be written first.
TEST(FusedMoeGrouped, TokensWithNoOneAndSeveralResults) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1738;
    for (const Format& format : {Format(WeightSpec::int4(32)), Format(WeightSpec::nvfp4())})
        for (const int hidden : {416, 420})
            for (const int top_k : {1, 4, 6}) {
                FusedMoeCase c = rank_case(format, 200, hidden, 160, top_k);
                c.down_bias = top_k == 4;
                expect_reference(c, purpose++, {1, 40, 200}, "grouped");
            }
}

/// The same in one pass and in two.
TEST(FusedMoeGrouped, TokensWithoutResultsInSeveralPasses) {
    TOKAMAK_REQUIRE_GPU();
    expect_reference(rank_case(WeightSpec::mxfp4(), 1100, 96, 64, 8), 1750, {1024, 1100}, "grouped");
}

TEST(FusedMoeGrouped, SeveralPasses) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(WeightSpec::mxfp4(), 700, 96, 64);
    c.problem.top_k = 11;
    c.problem.num_experts = 23;
    c.problem.num_local_experts = 20;
    expect_reference(c, 740, {186, 187, 700});
}

TEST(FusedMoeGrouped, OddSizes) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 750;
    for (const WeightSpec& spec : {WeightSpec::int4(32), WeightSpec::mxfp4()})
        for (const std::pair<int, int>& size :
             {std::pair{2880, 704}, {704, 1408}, {1408, 96}, {96, 2880}, {8224, 32}}) {
            FusedMoeCase c = gpu_case(spec, 20, size.first, size.second);
            c.problem.num_experts = c.problem.num_local_experts = 3;
            c.problem.top_k = 2;
            c.placement = Placement::all;
            c.gate_up_bias = c.down_bias = true;
            expect_reference(c, purpose++, {20});
        }
}

TEST(FusedMoeGrouped, RoutingWeightOnTheInput) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 770;
    for (const Format& spec : formats()) {
        FusedMoeCase c = gpu_case(spec, 21, 160, 96);
        c.problem.routing_weight = RoutingWeight::input;
        c.weights_dtype = purpose % 2 == 0 ? DType::f32 : DType::bf16;
        c.problem.out_dtype = DType::f32;
        expect_reference(c, purpose++, {1, 8, 21});
    }
}

TEST(FusedMoeGrouped, NoIdNamesAnExpert) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(WeightSpec::int4(32), 40, 160, 96);
    c.bad_ids = 1.0;
    expect_reference(c, 780, {40});
    c.shared_output = true;
    expect_reference(c, 781, {40});
}

TEST(FusedMoeGrouped, ManyExperts) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(WeightSpec::mxfp4(), 70, 64, 32);
    c.problem.num_experts = 1029;
    c.problem.num_local_experts = 1001;
    c.problem.top_k = 16;
    expect_reference(c, 790, {70});
}

/// A limit shortens the passes and changes no bit, whether a launch makes all passes or one.
TEST(FusedMoeGrouped, LimitedWorkspace) {
    TOKAMAK_REQUIRE_GPU();
    for (const Format& spec : {Format(WeightSpec::int4(32)), Format(WeightSpec::fp8_block(), true)}) {
        const auto variants = gpu_variants(gpu_case(spec, 60, 160, 96).problem, "grouped");
        EXPECT_FALSE(variants.empty());
        for (const std::string& variant : variants) {
            SCOPED_TRACE(variant);
            FusedMoeCase c = gpu_case(spec, 60, 160, 96);
            Rng rng = rng_for(800);
            const FusedMoeData data = random_data(rng, c).on(Device::cuda());
            PlanOptions options;
            options.variant = variant;
            const FusedMoePlan whole = make_plan(c.problem, Device::cuda(), options);
            options.max_workspace_bytes = whole.workspace().bytes / 4;
            const FusedMoePlan limited = make_plan(c.problem, Device::cuda(), options);
            EXPECT_LE(limited.workspace().bytes, options.max_workspace_bytes);
            EXPECT_EQ(bytes_of(run_guarded(limited, data.args())), bytes_of(run_guarded(whole, data.args())));
            options.max_workspace_bytes = 64;
            EXPECT_THROW(make_plan(c.problem, Device::cuda(), options), Error);
        }
    }
}

}  // namespace
}  // namespace tokamak::moe::test
