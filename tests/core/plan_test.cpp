// SPDX-License-Identifier: Apache-2.0
#include "tokamak/plan.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "core/choose.h"
#include "core/plan_state.h"
#include "support/expect_error.h"
#include "tokamak/tune.h"

namespace tokamak {
namespace {

using test::expect_error;

struct ToyProblem {
    std::int64_t max_tokens = 0;
    int width = 0;
};
struct ToyState : detail::TypedState<ToyProblem> {
    Slice<float> rows;
};
using ToyPlan = PlanOf<ToyProblem>;

PlanOptions pinned(const char* variant) {
    PlanOptions options;
    options.variant = variant;
    return options;
}

ToyPlan toy_plan(std::int64_t max_tokens, int width = 3, const PlanOptions& options = {}) {
    auto state = std::make_shared<ToyState>();
    state->problem = {max_tokens, width};
    choose_cpu(*state, "toy", Device::cpu(), max_tokens, options);
    state->rows = state->layout.add<float>("rows", static_cast<std::size_t>(max_tokens * width));
    return detail::to_plan<ToyProblem, ToyState>(std::move(state));
}

TEST(Plan, SaysWhatItWasMadeFor) {
    PlanOptions options;
    options.max_sms = 5;
    const ToyPlan plan = toy_plan(100, 3, options);
    EXPECT_EQ(plan.op(), "toy");
    EXPECT_EQ(plan.device(), Device::cpu());
    EXPECT_EQ(plan.max_tokens(), 100);
    EXPECT_EQ(plan.options().max_sms, 5);
    EXPECT_EQ(plan.problem().width, 3);
    EXPECT_EQ(plan.workspace(), (WorkspaceSize{1200, 256}));
    EXPECT_EQ(detail::state_of<ToyState>(plan).rows.count, 300U);
}

TEST(Plan, TableHasOneRowForEachBucket) {
    for (const std::int64_t maximum : {1, 2, 3, 8, 100, 256, 257, 4097, 9000}) {
        const ToyPlan plan = toy_plan(maximum);
        const auto buckets = tune::token_buckets(maximum);
        ASSERT_EQ(plan.table().size(), buckets.size());
        for (std::size_t i = 0; i < buckets.size(); ++i) EXPECT_EQ(plan.table()[i].tokens, buckets[i]);
        EXPECT_EQ(plan.table().back().tokens, maximum);
    }
}

TEST(Plan, RowForRoundsUpAtEveryBorder) {
    const ToyPlan plan = toy_plan(5000);
    std::int64_t previous = -1;
    for (const PlanRow& row : plan.table()) {
        EXPECT_EQ(plan.row_for(previous + 1).tokens, row.tokens);
        EXPECT_EQ(plan.row_for(row.tokens).tokens, row.tokens);
        if (row.tokens < 5000) {
            EXPECT_GT(plan.row_for(row.tokens + 1).tokens, row.tokens);
        }
        previous = row.tokens;
    }
    expect_error([&] { (void)plan.row_for(5001); }, "toy: `tokens` is 5001, the plan was made for at most 5000");
    expect_error([&] { (void)plan.row_for(-1); }, "toy: `tokens` is -1, expected at least 0");
}

TEST(Plan, ForNoTokensAtAll) {
    const ToyPlan plan = toy_plan(0);
    ASSERT_EQ(plan.table().size(), 1U);
    EXPECT_EQ(plan.row_for(0).tokens, 0);
    EXPECT_EQ(plan.row_for(0).variant, kCpuF32);
    EXPECT_EQ(plan.workspace().bytes, 0U);
    EXPECT_THROW((void)plan.row_for(1), Error);
}

TEST(Plan, PinnedVariantStandsInEveryRow) {
    const ToyPlan plan = toy_plan(300, 1, pinned(kCpuF64));
    for (const PlanRow& row : plan.table()) {
        EXPECT_EQ(row.variant, kCpuF64);
        EXPECT_EQ(row.source, "option");
        EXPECT_TRUE(is_oracle(plan.state(), row.tokens));
    }
    EXPECT_FALSE(is_oracle(toy_plan(300).state(), 7));
    expect_error([] { (void)toy_plan(4, 1, pinned("cpu_f16")); }, ErrorCode::invalid_argument,
                 {"toy: variant \"cpu_f16\"", "expected one of cpu_f32, cpu_f64"});
}

TEST(Plan, ExplainNamesEveryRowAndSlice) {
    const std::string text = toy_plan(6).explain();
    EXPECT_EQ(text,
              "toy on cpu, up to 6 tokens\n"
              "  tokens <= 1      cpu_f32 (heuristic)\n"
              "  tokens <= 2      cpu_f32 (heuristic)\n"
              "  tokens <= 4      cpu_f32 (heuristic)\n"
              "  tokens <= 6      cpu_f32 (heuristic)\n"
              "workspace 72 bytes, alignment 256\n"
              "  rows                     offset            0 bytes           72\n");
}

TEST(Plan, CopiesShareOneState) {
    const ToyPlan plan = toy_plan(64);
    const ToyPlan copy = plan;  // NOLINT(performance-unnecessary-copy-initialization): this is what is tested
    EXPECT_EQ(&copy.state(), &plan.state());
    EXPECT_EQ(&copy.problem(), &plan.problem());
}

TEST(Plan, MaximumOfPlansServesAll) {
    const ToyPlan small = toy_plan(10, 1);
    const ToyPlan large = toy_plan(10, 900);
    EXPECT_EQ(max_of(small), small.workspace());
    EXPECT_EQ(max_of(small, large, small), large.workspace());
}

}  // namespace
}  // namespace tokamak
