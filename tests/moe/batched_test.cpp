// SPDX-License-Identifier: Apache-2.0
// Rows grouped by expert on the CPU, and what is refused of them.
#include <array>
#include <functional>

#include "moe/batched_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

TEST(FusedMoeBatched, GivesWhatIdsGiveAndLeavesOtherRows) {
    constexpr std::array<std::int32_t, 6> live = {3, 0, 11, -5, 12, 1};  // of 11
    std::uint64_t purpose = 2600;
    for (const WeightSpec& weights : {WeightSpec::bf16(), WeightSpec::mxfp4(), WeightSpec::int4(64, DType::f16)})
        expect_batched(batched_case(weights, 11, 6), live, Device::cpu(), purpose++);
}

TEST(FusedMoeBatched, NoRowsAtAll) {
    constexpr std::array<std::int32_t, 3> live = {0, 0, 0};
    expect_batched(batched_case(WeightSpec::mxfp4(), 5, 3), live, Device::cpu(), 2610);
    FusedMoeCase c = batched_case(WeightSpec::mxfp4(), 5, 3);
    c.tokens = 0;
    expect_batched(c, live, Device::cpu(), 2611);
}

TEST(FusedMoeBatched, ProblemsAreRefused) {
    const auto expect = [](const std::function<void(FusedMoeProblem&)>& spoil, std::vector<std::string> parts) {
        FusedMoeProblem p = batched_case(WeightSpec::mxfp4(), 4, 3).problem;
        p.batched_experts = true;
        ASSERT_NO_THROW(make_plan(p, Device::cpu()));
        spoil(p);
        expect_refused([&] { make_plan(p, Device::cpu()); }, parts);
    };
    expect([](auto& p) { p.top_k = 2; }, {"`top_k` is 2", "`batched_experts`"});
    expect([](auto& p) { p.num_local_experts = 2; }, {"`num_local_experts` is 2", "all 3"});
    expect([](auto& p) { p.route = RouteRule{}; }, {"`route` is set", "`batched_experts`"});
}

TEST(FusedMoeBatched, ArgumentsAreRefused) {
    FusedMoeCase c = batched_case(WeightSpec::mxfp4(), 4, 3);
    Rng rng = rng_for(2620);
    const FusedMoeData data = random_data(rng, c);
    c.problem.batched_experts = true;
    const FusedMoePlan plan = make_plan(c.problem, Device::cpu());
    const OwnedTensor rows = OwnedTensor::allocate(DType::i32, {3});
    std::fill_n(rows.as<std::int32_t>(), 3, 2);
    const OwnedTensor four = OwnedTensor::allocate(DType::i32, {4});
    const auto expect = [&](const std::function<void(FusedMoeArgs&)>& spoil, std::vector<std::string> parts) {
        FusedMoeArgs args = data.args();
        args.ids = args.expert_map = {};
        args.expert_rows = rows;
        ASSERT_NO_THROW((void)run_guarded(plan, args));
        spoil(args);
        expect_refused([&] { (void)run_guarded(plan, args); }, parts);
    };
    expect([](auto& a) { a.expert_rows = {}; }, {"`expert_rows`"});
    expect([&](auto& a) { a.expert_rows = four; }, {"`expert_rows`", "3"});
    expect([&](auto& a) { a.ids = data.routing.ids; }, {"`ids`", "batched_experts"});
    expect([&](auto& a) { a.first_expert = 1; }, {"`first_expert` is 1"});
    expect([](auto& a) { a.tokens = 11; }, {"`tokens` is 11", "multiple of the 3 experts"});
    FusedMoeProblem plain = c.problem;
    plain.batched_experts = false;
    FusedMoeArgs args = data.args();
    args.expert_rows = rows;
    expect_refused([&] { (void)run_guarded(make_plan(plain, Device::cpu()), args); }, {"`expert_rows`", "unless"});
}

}  // namespace
}  // namespace tokamak::moe::test
