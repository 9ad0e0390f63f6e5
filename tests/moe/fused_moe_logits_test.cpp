// SPDX-License-Identifier: Apache-2.0
// fused_moe from router logits on the CPU: the same bits as routing first.
#include <gtest/gtest.h>

#include "moe/logit_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

TEST(FusedMoeLogits, SameBitsAsRoutingFirst) {
    std::uint64_t purpose = 1;
    for (const RuleCase& rule : rule_cases()) {
        FusedMoeCase c = logit_case(rule, WeightSpec::bf16(), 9);
        c.problem.routing_weight = static_cast<RoutingWeight>(purpose % 3);
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(purpose++);
        const LogitData d = logit_data(rng, c, rule.bias);
        const OwnedTensor want = run_guarded(make_plan(d.plain_problem(), Device::cpu()), d.plain_args(9));
        for (const std::uint8_t poison : {0x00, 0xFF})
            EXPECT_EQ(bytes_of(run_guarded(make_plan(c.problem, Device::cpu()), d.args(9), poison)), bytes_of(want));
    }
}

TEST(FusedMoeLogits, WorkspaceLimitsHold) {
    const FusedMoeCase c = logit_case(rule_cases()[8], WeightSpec::int4(32), 90);
    Rng rng = rng_for(50);
    const LogitData d = logit_data(rng, c, true);
    const FusedMoePlan free = make_plan(c.problem, Device::cpu());
    PlanOptions options;
    options.max_workspace_bytes = free.workspace().bytes * 3 / 4;
    const FusedMoePlan limited = make_plan(c.problem, Device::cpu(), options);
    EXPECT_LE(limited.workspace().bytes, options.max_workspace_bytes);
    EXPECT_EQ(bytes_of(run_guarded(limited, d.args(90))), bytes_of(run_guarded(free, d.args(90))));
}

TEST(FusedMoeLogits, Misuse) {
    const FusedMoeCase c = logit_case(rule_cases()[7], WeightSpec::bf16(), 4);
    Rng rng = rng_for(60);
    const LogitData d = logit_data(rng, c, true);
    const FusedMoePlan plan = make_plan(c.problem, Device::cpu());
    const auto refused = [&](const FusedMoePlan& p, FusedMoeArgs args, const std::vector<std::string>& parts) {
        expect_refused([&] { (void)fused_moe(p, args); }, parts);
    };
    FusedMoeArgs args = d.args(4);
    args.ids = d.data.routing.ids;
    refused(plan, args, {"fused_moe", "`ids`", "absent"});
    args = d.args(4);
    args.weights = d.data.routing.weights;
    refused(plan, args, {"fused_moe", "`weights`", "absent"});
    args = d.args(4);
    args.logits = Tensor();
    refused(plan, args, {"fused_moe", "`logits`"});
    args = d.plain_args(4);
    args.logits = d.logits;
    refused(make_plan(d.plain_problem(), Device::cpu()), args, {"fused_moe", "`logits`", "absent"});
    FusedMoeProblem bad = c.problem;
    bad.route->num_groups = 7;
    expect_unsupported(bad, {"fused_moe", "`route`", "num_groups", "7"});
}

}  // namespace
}  // namespace tokamak::moe::test
