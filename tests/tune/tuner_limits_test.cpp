// SPDX-License-Identifier: Apache-2.0
// Time budgets, hanging candidates, captures, the measurement scope, what is remembered between tunings.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "core/build_info.h"
#include "core/config_store.h"
#include "support/expect_error.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tune/scope.h"
#include "tune/scripted.h"

namespace tokamak::tune {
namespace {

using test::expect_error;
using test::request_of;
using test::ScriptedClock;
using test::ScriptedRunner;

double ten(const std::string&, std::int64_t, int) { return 10; }

TEST(TunerLimits, AHangingCandidateIsGivenUpAfterOneCall) {
    ScriptedClock clock;
    int hangs = 0;
    ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t, int) {
        if (variant == "b") {
            ++hangs;
            clock.now += 60;
        }
        return variant == "b" ? 1.0 : 10.0;
    });
    Request request = request_of({"a", "b"}, {1, 2});
    request.options.seconds = 30;
    const Tuning tuning = tune(request, runner, clock);
    EXPECT_EQ(hangs, 1);
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].reason, "hung: one call took 60.0 s, allowed are 5.0 s");
    ASSERT_EQ(tuning.rows.size(), 1U) << "the count at which it hung still gets its row";
    EXPECT_EQ(tuning.rows[0].variant, "a");
    ASSERT_EQ(tuning.skipped.size(), 1U);
    EXPECT_EQ(tuning.skipped[0].reason, "the time budget was spent");
}

TEST(TunerLimits, WhatIsKnownToBeTooSlowIsLeftOutWhereItIsAndNeverTheDefault) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t, int) { return variant == "a" ? 10 : 5; });
    Request request = request_of({"a", "b"}, {1, 64, 512});
    request.options.leave_out = [](const std::string& variant, std::int64_t tokens) {
        EXPECT_NE(variant, "a") << "the default is not asked about";
        return tokens > 64 ? std::string("too slow") : std::string();
    };
    const Tuning tuning = tune(request, runner, clock);
    ASSERT_EQ(tuning.rows.size(), 3U);
    EXPECT_EQ(tuning.rows[1].variant, "b");
    EXPECT_EQ(tuning.rows[2].variant, "a");
    EXPECT_EQ(tuning.rows[2].timed[1].error, "too slow");
    EXPECT_EQ(runner.prepared[2], (std::vector<std::string>{"a"})) << "and no buffer is sized for it";
    EXPECT_TRUE(tuning.failed.empty());
}

/// "a" is the faster up to 20 tokens, "b" above.
ScriptedRunner::Time faster_up_to_20() {
    return [](const std::string& variant, std::int64_t tokens, int) {
        return (variant == "a") == (tokens <= 20) ? 10.0 : 12.0;
    };
}

TEST(TunerBetween, ACountInTheMiddleGetsARowWhereTheLargerOnesWinnerIsSlow) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, faster_up_to_20());
    Request request = request_of({"a", "b"}, {1, 8, 16, 32, 64});
    request.options.between = 0.05;
    const Tuning tuning = tune(request, runner, clock);
    std::vector<std::int64_t> counts;
    for (const Row& row : tuning.rows) {
        counts.push_back(row.tokens);
        EXPECT_EQ(row.variant, row.tokens <= 20 ? "a" : "b");
    }
    EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 8, 16, 32, 64})) << "24 takes what 32 takes";
    request.buckets = {1, 8, 16, 22, 64};
    counts.clear();
    for (const Row& row : tune(request, runner, clock).rows) counts.push_back(row.tokens);
    EXPECT_EQ(counts, (std::vector<std::int64_t>{1, 8, 16, 19, 20, 22, 64})) << "halving the distance";
}

TEST(TunerBetween, NothingIsMeasuredTwiceAndNeighboursHaveNothingBetweenThem) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, faster_up_to_20());
    Request request = request_of({"a", "b"}, {1, 2, 19, 20});
    request.options.between = 0.05;
    (void)tune(request, runner, clock);
    EXPECT_EQ(runner.prepared.size(), 5U) << "four counts, and 10";
    request.options.between = 0;
    (void)tune(request, runner, clock);
    EXPECT_EQ(runner.prepared.size(), 9U);
}

TEST(TunerBetween, WhatIsHopelessAtLargeCountsIsTriedBetweenSmallOnes) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t tokens, int) {
        return variant == "a" ? 100.0 : static_cast<double>(tokens) * (tokens == 6 ? 1 : 15);
    });
    Request request = request_of({"a", "b"}, {4, 8, 64, 512, 4096});
    request.options.hopeless = 4;
    request.options.between = 0.05;
    const Tuning tuning = tune(request, runner, clock);
    ASSERT_EQ(tuning.rows.size(), 6U);
    EXPECT_EQ(tuning.rows[1].tokens, 6);
    EXPECT_EQ(tuning.rows[1].variant, "b");
}

TEST(TunerLimits, TheBudgetIsSharedOutAndCutsRoundsShort) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, test::undecided());
    runner.seconds_per_call = 0.1;
    Request request = request_of({"a", "b"}, {1, 2, 4, 8});
    request.options.seconds = 12.2;  // 3.05 s each: a warm-up, 14 rounds of 0.2 s, half a round
    const double begin = clock.now;
    const Tuning tuning = tune(request, runner, clock);
    EXPECT_LT(clock.now - begin, 12.5);
    ASSERT_EQ(tuning.rows.size(), 4U);
    for (const Row& row : tuning.rows) {
        EXPECT_GE(row.timed[0].rounds, 13);
        EXPECT_LE(row.timed[0].rounds, 15);
        EXPECT_EQ(row.timed[0].rounds, row.timed[1].rounds) << "half a round counts for none";
    }
}

TEST(TunerLimits, TooFewRoundsAreNoDecision) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    runner.seconds_per_call = 1;
    Request request = request_of({"a", "b"}, {1, 2});
    request.options.seconds = 16;  // 8 s each: the warm-up and 3 of 7 rounds
    const Tuning tuning = tune(request, runner, clock);
    EXPECT_TRUE(tuning.rows.empty());
    ASSERT_EQ(tuning.skipped.size(), 2U);
    EXPECT_EQ(tuning.skipped[0].reason, "the time budget was spent after 3 rounds");
}

TEST(TunerLimits, UnusedShareGoesToTheLaterCounts) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, [time = test::undecided()](const std::string& variant, std::int64_t tokens, int call) {
        if (tokens == 1) return variant == "a" ? 10.0 : 20.0;  // settled at once
        return time(variant, tokens, call);
    });
    runner.seconds_per_call = 0.1;
    Request request = request_of({"a", "b"}, {1, 2});
    request.options.seconds = 8;
    const Tuning tuning = tune(request, runner, clock);
    EXPECT_EQ(tuning.rows[0].timed[0].rounds, 7);
    EXPECT_EQ(tuning.rows[1].timed[0].rounds, 31) << "6.4 s, more than half of the budget";
}

TEST(TunerLimits, TheFirstRoundDropsWhoIsFarBehindButNeverTheDefault) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t, int) {
        return variant == "slow" ? 12.6 : variant == "near" ? 12.4 : variant == "fast" ? 10.0 : 30.0;
    });
    Request request = request_of({"default", "slow", "near", "fast"}, {1, 2});
    request.options.first_round_drop = 0.25;
    const Tuning tuning = tune(request, runner, clock);
    for (const Row& row : tuning.rows) {
        EXPECT_EQ(row.variant, "fast");
        EXPECT_EQ(row.timed[0].rounds, 7) << "its margin is wanted";
        EXPECT_EQ(row.timed[1].rounds, 1);
        EXPECT_EQ(row.timed[2].rounds, 7);
        EXPECT_EQ(row.timed[3].rounds, 7);
        EXPECT_EQ(row.runner_up, "near");
    }
}

TEST(TunerLimits, WhoFallsFurtherAndFurtherBehindIsNotTriedAtLargerCounts) {
    ScriptedClock clock;
    // "passes" grows with the tokens, "wide" is far behind at first and catches up.
    ScriptedRunner runner(clock, [](const std::string& variant, std::int64_t tokens, int) {
        const auto count = static_cast<double>(tokens);
        return variant == "passes" ? 5.0 * count : variant == "wide" ? 60.0 : 10.0 + 2.0 * count;
    });
    Request request = request_of({"default", "passes", "wide"}, {1, 8, 64, 256});
    request.options.hopeless = 2;
    const Tuning tuning = tune(request, runner, clock);
    const auto rounds = [&](std::size_t row, std::size_t candidate) {
        return tuning.rows[row].timed[candidate].rounds;
    };
    EXPECT_GT(rounds(2, 1), 0);
    EXPECT_EQ(tuning.rows[3].timed[1].rounds, 0);
    EXPECT_NE(tuning.rows[3].timed[1].error.find("not tried"), std::string::npos);
    EXPECT_EQ(tuning.rows[3].variant, "wide") << "12 times as slow as the fastest at 1 token, but not falling behind";
    EXPECT_TRUE(tuning.failed.empty()) << "nothing to remember";
}

TEST(TunerLimits, AFailureThatBreaksTheDeviceEndsTheTuningAndCostsOnlyItsCandidate) {
    ScriptedClock clock;
    ScriptedRunner* broken = nullptr;
    ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t tokens, int) {
        if (broken->is_broken) throw Error(ErrorCode::device, "an illegal memory access was encountered");
        if (variant == "b" && tokens == 2) {
            broken->is_broken = true;
            throw Error(ErrorCode::device, "an illegal memory access was encountered");
        }
        return 10.0;
    });
    broken = &runner;
    const Tuning tuning = tune(request_of({"a", "b", "c"}, {1, 2, 4}), runner, clock);
    ASSERT_EQ(tuning.rows.size(), 1U);
    EXPECT_EQ(tuning.rows[0].tokens, 1);
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].variant, "b");
    ASSERT_EQ(tuning.skipped.size(), 2U);
    EXPECT_NE(tuning.skipped[1].reason.find("nothing can run since b failed"), std::string::npos);
}

TEST(TunerLimits, ADeviceThatBreaksInTheMiddleOfARoundLeavesNoHalfRoundBehind) {
    for (const char* victim : {"a", "b", "c"}) {
        ScriptedClock clock;
        ScriptedRunner* broken = nullptr;
        int calls = 0;
        ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t, int) {
            if (broken->is_broken) throw Error(ErrorCode::device, "an illegal memory access was encountered");
            if (variant == victim && ++calls == 2) {  // the first one warms up
                broken->is_broken = true;
                throw Error(ErrorCode::device, "an illegal memory access was encountered");
            }
            return 10.0;
        });
        broken = &runner;
        Request request = request_of({"a", "b", "c"}, {1, 2});
        request.options.first_round_drop = 0.25;
        request.options.min_rounds = request.options.max_rounds = 1;
        const Tuning tuning = tune(request, runner, clock);
        EXPECT_TRUE(tuning.rows.empty()) << victim;
        ASSERT_EQ(tuning.failed.size(), 1U);
        EXPECT_EQ(tuning.failed[0].variant, victim);
    }
}

TEST(TunerLimits, CandidatesAreReadiedAtEachCountOutsideTheMeasurement) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    std::vector<std::string> readied;
    runner.on_ready = [&](const std::string& variant) {
        EXPECT_FALSE(in_measurement());
        readied.push_back(variant);
        if (variant == "b") throw Error(ErrorCode::internal, "differs from the oracle");
        if (variant == "c" && readied.size() < 4) throw Error(ErrorCode::out_of_memory, "no memory for a graph");
    };
    const Tuning tuning = tune(request_of({"a", "b", "c"}, {1, 2}), runner, clock);
    EXPECT_EQ(readied, (std::vector<std::string>{"a", "b", "c", "a", "c"}));
    EXPECT_EQ(std::count(runner.order.begin(), runner.order.end(), "b"), 0);
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].reason, "differs from the oracle");
    EXPECT_EQ(tuning.rows[0].timed[2].error, "no memory for a graph");
    EXPECT_GT(tuning.rows[1].timed[2].rounds, 0) << "memory counts for one token count only";
}

TEST(TunerLimits, ProgressCountsRoundsAndBuckets) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    Request request = request_of({"a", "b"}, {1, 2});
    std::vector<Progress> seen;
    request.options.progress = [&](const Progress& progress) { seen.push_back(progress); };
    (void)tune(request, runner, clock);
    ASSERT_EQ(seen.size(), 14U);
    EXPECT_EQ(seen.front().round, 1);
    EXPECT_EQ(seen.front().active, 2U);
    EXPECT_EQ(seen.back().bucket, 1U);
    EXPECT_EQ(seen.back().buckets, 2U);
    EXPECT_EQ(seen.back().tokens, 2);
    EXPECT_EQ(seen.back().round, 7);
}

TEST(TunerLimits, RefusedInACaptureBeforeAnythingRuns) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    runner.is_capturing = true;
    expect_error([&] { (void)tune(request_of({"a"}), runner, clock); }, "captured", ErrorCode::unsupported);
    EXPECT_TRUE(runner.prepared.empty());
}

TEST(TunerLimits, ARequestThatContradictsItselfIsNamed) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    const auto refused = [&](const Request& request, const std::string& text) {
        expect_error([&] { (void)tune(request, runner, clock); }, text);
    };
    refused(request_of({"a"}, {1, 8, 4}), "`buckets` is [1, 8, 4], expected ascending");
    refused(request_of({"a"}, {0, 8}), "`buckets` is [0, 8]");
    refused(request_of({"a"}, {}), "`buckets` is []");
    Request request = request_of({"a"});
    request.fallback = nullptr;
    refused(request, "`fallback` is empty");
    EXPECT_TRUE(runner.prepared.empty());
}

TEST(MeasurementScope, NestsAndBelongsToItsThread) {
    EXPECT_FALSE(in_measurement());
    {
        const MeasurementScope outer;
        {
            const MeasurementScope inner;
            EXPECT_TRUE(in_measurement());
        }
        EXPECT_TRUE(in_measurement());
        bool elsewhere = true;
        std::thread([&] { elsewhere = in_measurement(); }).join();
        EXPECT_FALSE(elsewhere);
    }
    EXPECT_FALSE(in_measurement());
}

TEST(MeasurementScope, CoversTimingAndNothingElse) {
    ScriptedClock clock;
    int inside = 0;
    int calls = 0;
    ScriptedRunner runner(clock, [&](const std::string&, std::int64_t, int) {
        ++calls;
        inside += in_measurement() ? 1 : 0;
        return 10.0;
    });
    int outside = 0;
    runner.on_prepare = [&](std::int64_t) { outside += in_measurement() ? 1 : 0; };
    runner.on_check = [&](const std::string&, std::int64_t) { outside += in_measurement() ? 1 : 0; };
    Request request = request_of({"a", "b"});
    request.options.progress = [&](const Progress&) { outside += in_measurement() ? 1 : 0; };
    request.fallback = [&](std::int64_t) {
        outside += in_measurement() ? 1 : 0;
        return std::string("a");
    };
    (void)tune(request, runner, clock);
    EXPECT_EQ(inside, calls);
    EXPECT_EQ(outside, 0);
    EXPECT_FALSE(in_measurement());
}

TEST(MeasurementScope, EndsWithAThrowingCandidateAndRefusesTuningInside) {
    ScriptedClock clock;
    ScriptedRunner inner(clock, ten);
    ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t, int) {
        if (variant == "b") (void)tune(request_of({"a"}), inner, clock);
        return 10.0;
    });
    const Tuning tuning = tune(request_of({"a", "b"}), runner, clock);
    EXPECT_FALSE(in_measurement());
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].reason, "tune: called inside a measurement");
}

class TunerMemory : public ::testing::Test {
  protected:
    test::TemporaryFolder folder_;
    std::string path_ = folder_.file("store.json");
    test::ScopedVariable variable_{environment::kConfigStore, path_};

    void remember(const std::string& build) const {
        ConfigStore store;
        store.set_failed("gpu", "toy wide=1", "b", {build, 4, "hung"});
        store.save(path_);
    }
    static std::vector<std::string> timed_variants(bool retry) {
        ScriptedClock clock;
        ScriptedRunner runner(clock, ten);
        Request request = request_of({"a", "b"});
        request.options.retry_failed = retry;
        (void)tune(request, runner, clock);
        return runner.prepared.at(0);
    }
};

TEST_F(TunerMemory, WhatFailedWithTheseKernelsIsNotTriedAgain) {
    const std::vector<std::string> both = {"a", "b"};
    EXPECT_EQ(timed_variants(false), both);
    remember(build_info::cuda_sources_hash());
    EXPECT_EQ(timed_variants(false), std::vector<std::string>{"a"});
    EXPECT_EQ(timed_variants(true), both);
    remember("another build");
    EXPECT_EQ(timed_variants(false), both);
}

TEST_F(TunerMemory, AnOldFailureStaysRecordedWithItsReason) {
    remember(build_info::cuda_sources_hash());
    ScriptedClock clock;
    ScriptedRunner runner(clock, ten);
    const Tuning tuning = tune(request_of({"a", "b"}), runner, clock);
    ASSERT_EQ(tuning.failed.size(), 1U);
    EXPECT_EQ(tuning.failed[0].reason, "hung");
    EXPECT_EQ(tuning.rows[0].timed[1].error, "hung");
}

}  // namespace
}  // namespace tokamak::tune
