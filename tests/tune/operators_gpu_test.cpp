// SPDX-License-Identifier: Apache-2.0
// Tuning on a device: every variant of a small layer measured as graphs, capture refused, lookups in capture legal.
#include <gtest/gtest.h>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "support/expect_error.h"
#include "tune/moe_calls.h"

namespace tokamak::tune {
namespace {

Options quick() {
    Options options;
    options.min_rounds = 3;
    options.max_rounds = 5;
    return options;
}

TEST(TuneOnADevice, EveryVariantIsRightAndTimed) {
    TOKAMAK_REQUIRE_GPU();
    test::MoeCalls data(64, Device::cuda());
    data.calls.buckets = {1, 16, 64};
    const Tuning tuning = tune(data.problem, Device::cuda(), data.calls, quick());
    ASSERT_EQ(tuning.rows.size(), 3U);
    const auto plan = make_plan(data.problem, Device::cuda());
    for (const Row& row : tuning.rows) {
        ASSERT_EQ(row.timed.size(), plan.state().variants.size());
        for (const Timed& timed : row.timed) {
            EXPECT_EQ(timed.error, "") << timed.variant << " at " << row.tokens;
            EXPECT_GT(timed.us, 0) << timed.variant << " at " << row.tokens;
        }
    }
    EXPECT_TRUE(tuning.failed.empty());
}

TEST(TuneOnADevice, IsRefusedInACaptureWhichGoesOn) {
    TOKAMAK_REQUIRE_GPU();
    test::MoeCalls data(8, Device::cuda());
    const auto plan = make_plan(data.problem, Device::cuda());
    const OwnedWorkspace workspace(plan.workspace(), Device::cuda());
    const cuda::OwnedStream stream;
    data.calls.stream = stream.stream();
    const cuda::CapturedGraph graph(stream, [&] {
        test::expect_error([&] { (void)tune(data.problem, Device::cuda(), data.calls, quick()); }, "captured",
                           ErrorCode::unsupported);
        EXPECT_FALSE(plan.row_for(8).variant.empty());
        run(plan, data.args(8, 0), workspace, stream.stream());
    });
    EXPECT_GT(graph.nodes(), 0U);
    data.calls.stream = {};
}

}  // namespace
}  // namespace tokamak::tune
