// SPDX-License-Identifier: Apache-2.0
// Tuning whole operators over the caller's data, on the CPU's variants.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>

#include "core/choose.h"
#include "core/config_store.h"
#include "core/plan_state.h"
#include "support/expect_error.h"
#include "tune/moe_calls.h"

namespace {

std::atomic<int> tensor_allocations = 0;  ///< while a candidate was timed

}  // namespace

/// In place of the C library's: tensors and workspaces of the CPU come from here.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
    if (tokamak::tune::in_measurement()) ++tensor_allocations;
    void* memory = nullptr;
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}

namespace tokamak::tune {
namespace {

using test::expect_error;
using test::MoeCalls;

Options quick() {
    Options options;
    options.min_rounds = 1;
    options.max_rounds = 3;
    return options;
}

const Timed& timed(const Row& row, const std::string& variant) {
    return *std::find_if(row.timed.begin(), row.timed.end(), [&](const Timed& t) { return t.variant == variant; });
}

TEST(TuneOperators, EveryVariantIsMeasuredAtEveryBucket) {
    MoeCalls data(8, Device::cpu());
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    const auto plan = make_plan(data.problem, Device::cpu());
    EXPECT_EQ(tuning.problem, plan.state().problem_key);
    EXPECT_EQ(tuning.device, "cpu");
    ASSERT_EQ(tuning.rows.size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) {
        const Row& row = tuning.rows[i];
        EXPECT_EQ(row.tokens, std::int64_t{1} << i);
        EXPECT_EQ(row.fallback, kCpuF32);
        ASSERT_EQ(row.timed.size(), plan.state().variants.size());
        for (const Timed& candidate : row.timed) {
            EXPECT_EQ(candidate.error, "");
            EXPECT_GT(candidate.us, 0);
        }
    }
    EXPECT_TRUE(tuning.skipped.empty());
    EXPECT_TRUE(tuning.failed.empty());
}

TEST(TuneOperators, InstalledWinnersAreWhatPlansThenTake) {
    MoeCalls data(2, Device::cpu());
    data.problem.top_k = 3;  // a problem of its own: the table stays installed
    data.fill();
    Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    tuning.rows[0].variant = kCpuF64;
    const std::string text = serialize(std::span(&tuning, 1));  // what rank 0 sends
    EXPECT_EQ(make_plan(data.problem, Device::cpu()).row_for(1).source, "heuristic");
    EXPECT_EQ(install(text), 1U);
    const auto plan = make_plan(data.problem, Device::cpu());
    EXPECT_EQ(plan.row_for(1).variant, kCpuF64);
    EXPECT_EQ(plan.row_for(1).source, "tuned");
    EXPECT_EQ(plan.row_for(2).bucket, 2);
    // The default is what the library takes without a table, whatever is installed.
    EXPECT_EQ(tune(data.problem, Device::cpu(), data.calls, quick()).rows[0].fallback, kCpuF32);
}

TEST(TuneOperators, AWrongResultCostsTheCandidate) {
    MoeCalls data(2, Device::cpu());
    int calls = 0;
    data.calls.compare = [&](std::int64_t) {
        if (++calls % 2 == 0) throw Error(ErrorCode::internal, "differs from the oracle by 0.3");
    };
    data.calls.buckets = {2};
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].variant, kCpuF64) << "the second of the table";
    EXPECT_EQ(tuning.failed[0].reason, "differs from the oracle by 0.3");
    EXPECT_EQ(tuning.rows[0].variant, kCpuF32);
    EXPECT_EQ(timed(tuning.rows[0], kCpuF64).rounds, 0) << "not timed";
}

TEST(TuneOperators, WithoutAComparisonTheDefaultIsTheReference) {
    MoeCalls data(4, Device::cpu());
    // Other weights for every call after the first ones: what the candidates compute differs.
    int calls = 0;
    const auto args = data.calls.args;
    data.calls.args = [&, args](std::int64_t tokens, int set) {
        moe::FusedMoeArgs changed = args(tokens, set);
        if (++calls > 6) changed.down = data.other_down.view();
        return changed;
    };
    data.calls.buckets = {4};
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    ASSERT_FALSE(tuning.failed.empty());
    EXPECT_NE(tuning.failed[0].reason.find("differs from cpu_f32 by"), std::string::npos) << tuning.failed[0].reason;
}

TEST(TuneOperators, FirstContactIsAskedOnceAndItsFailureIsRecorded) {
    MoeCalls data(4, Device::cpu());
    std::vector<std::string> asked;
    data.calls.contact = [&](const std::string& variant, std::int64_t) {
        asked.push_back(variant);
        if (variant == kCpuF64) throw Error(ErrorCode::internal, "crashed: signal 11 (Segmentation fault)");
    };
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_EQ(asked, (std::vector<std::string>{kCpuF32, kCpuF64}));
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].reason, "crashed: signal 11 (Segmentation fault)");
    for (const Row& row : tuning.rows) EXPECT_EQ(row.variant, kCpuF32);
}

TEST(TuneOperators, OutOfMemoryAtOneCountKeepsTheOthers) {
    MoeCalls data(8, Device::cpu());
    data.calls.reserve = [](std::int64_t tokens) {
        if (tokens == 4) throw Error(ErrorCode::out_of_memory, "80 GB are not free");
    };
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_EQ(tuning.rows.size(), 3U);
    ASSERT_EQ(tuning.skipped.size(), 1U);
    EXPECT_EQ(tuning.skipped[0].tokens, 4);
    EXPECT_EQ(tuning.skipped[0].reason, "80 GB are not free");
}

TEST(TuneOperators, NothingIsAllocatedWhileACandidateIsTimed) {
    MoeCalls data(64, Device::cpu());
    tensor_allocations = 0;
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_EQ(tuning.rows.size(), 7U);
    EXPECT_EQ(tensor_allocations, 0) << "a candidate with a larger workspace would pay for it";
    // The counter counts: a call that allocates is seen.
    const auto args = data.calls.args;
    data.calls.args = [args](std::int64_t tokens, int set) {
        static_cast<void>(OwnedTensor::allocate(DType::f32, {16}));
        return args(tokens, set);
    };
    (void)tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_GT(tensor_allocations, 0);
}

TEST(TuneOperators, CallsThatAddToTheirOutputAreSkippedWithTheReason) {
    MoeCalls data(8, Device::cpu());
    data.calls.args = [args = data.calls.args](std::int64_t tokens, int set) {
        moe::FusedMoeArgs adding = args(tokens, set);
        adding.accumulate_into_out = true;
        return adding;
    };
    const Tuning tuning = tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_TRUE(tuning.rows.empty());
    ASSERT_FALSE(tuning.skipped.empty());
    EXPECT_NE(tuning.skipped.front().reason.find("`accumulate_into_out` is set"), std::string::npos);
}

TEST(TuneOperators, StridedOutputsNeedAComparisonOfTheCallers) {
    MoeCalls data(8, Device::cpu());
    const std::int64_t hidden = data.problem.hidden;
    const OwnedTensor wide = OwnedTensor::allocate(data.problem.out_dtype, {8, hidden + 8});
    data.calls.args = [&, args = data.calls.args](std::int64_t tokens, int set) {
        moe::FusedMoeArgs strided = args(tokens, set);
        strided.out = Tensor::strided(wide.view().data, data.problem.out_dtype, std::array{std::int64_t{8}, hidden},
                                      std::array{hidden + 8, std::int64_t{1}});
        return strided;
    };
    const Tuning refused = tune(data.problem, Device::cpu(), data.calls, quick());
    EXPECT_EQ(refused.rows.size(), 1U) << "a single row has no gaps";
    ASSERT_FALSE(refused.skipped.empty());
    EXPECT_NE(refused.skipped.back().reason.find("expected a contiguous tensor where `compare` is empty"),
              std::string::npos)
        << refused.skipped.back().reason;
    data.calls.compare = [](std::int64_t) {};
    EXPECT_FALSE(tune(data.problem, Device::cpu(), data.calls, quick()).rows.empty());
}

TEST(TuneOperators, RequestsThatMakeNoSenseAreRefused) {
    MoeCalls data(8, Device::cpu());
    const auto refused = [&](const Calls<moe::FusedMoeArgs>& calls, const PlanOptions& plan, const char* text) {
        expect_error([&] { (void)tune(data.problem, Device::cpu(), calls, quick(), plan); }, text);
    };
    refused(data.calls, {.variant = kCpuF32}, "`variant` is \"cpu_f32\", expected none");
    Calls<moe::FusedMoeArgs> calls = data.calls;
    calls.buckets = {8, 16};
    refused(calls, {}, "`buckets` ends with 16, expected at most max_tokens = 8");
    calls = data.calls;
    calls.args = nullptr;
    refused(calls, {}, "`args` or `calls` is empty");
}

}  // namespace
}  // namespace tokamak::tune
