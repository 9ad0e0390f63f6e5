// SPDX-License-Identifier: Apache-2.0
// What the tuner decides and how it measures, on a scripted clock.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <stdexcept>

#include "support/expect_error.h"
#include "tune/scripted.h"

namespace tokamak::tune {
namespace {

using test::expect_error;
using test::request_of;
using test::ScriptedClock;
using test::ScriptedRunner;

/// The time of each variant, the same at every call.
ScriptedRunner::Time constant(std::map<std::string, double> us) {
    return [us = std::move(us)](const std::string& variant, std::int64_t, int) { return us.at(variant); };
}

Tuning tune_with(const Request& request, ScriptedRunner::Time time) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, std::move(time));
    return tune(request, runner, clock);
}

const Timed& timed(const Row& row, const std::string& variant) {
    return *std::find_if(row.timed.begin(), row.timed.end(), [&](const Timed& t) { return t.variant == variant; });
}

TEST(Tuner, TheFastestWinsAndTheRowSaysByHowMuch) {
    const Tuning tuning = tune_with(request_of({"a", "b", "c"}), constant({{"a", 10}, {"b", 8}, {"c", 9}}));
    ASSERT_EQ(tuning.rows.size(), 1U);
    const Row& row = tuning.rows[0];
    EXPECT_EQ(row.variant, "b");
    EXPECT_EQ(row.us, 8);
    EXPECT_EQ(row.fallback, "a");
    EXPECT_EQ(row.fallback_us, 10);
    EXPECT_EQ(row.runner_up, "c");
    EXPECT_EQ(row.runner_up_us, 9);
    ASSERT_EQ(row.timed.size(), 3U);
    EXPECT_EQ(row.timed[2].variant, "c");
    EXPECT_EQ(row.timed[2].us, 9);
    EXPECT_GT(row.timed[2].rounds, 0);
    EXPECT_EQ(tuning.device, "gpu");
    EXPECT_EQ(tuning.problem, "toy wide=1");
    EXPECT_FALSE(tuning.build.empty());
    EXPECT_TRUE(tuning.skipped.empty());
    EXPECT_TRUE(tuning.failed.empty());
}

TEST(Tuner, EachTokenCountIsDecidedByItself) {
    Request request = request_of({"a", "b"}, {1, 64, 100});
    request.fallback = [](std::int64_t tokens) { return std::string(tokens > 64 ? "b" : "a"); };
    const Tuning tuning = tune_with(request, [](const std::string& variant, std::int64_t tokens, int) {
        return variant == "a" ? static_cast<double>(tokens) : 50.0;
    });
    ASSERT_EQ(tuning.rows.size(), 3U);
    EXPECT_EQ(tuning.rows[0].variant, "a");
    EXPECT_EQ(tuning.rows[1].variant, "b");
    EXPECT_EQ(tuning.rows[2].variant, "b");
    EXPECT_EQ(tuning.rows[2].fallback, "b");
    EXPECT_EQ(tuning.rows[2].tokens, 100);
}

TEST(Tuner, TiesAndWinsBelowTheMarginGoToTheDefault) {
    EXPECT_EQ(tune_with(request_of({"a", "b"}), constant({{"a", 10}, {"b", 10}})).rows[0].variant, "a");
    EXPECT_EQ(tune_with(request_of({"a", "b"}), constant({{"a", 10}, {"b", 9.96}})).rows[0].variant, "a");
    EXPECT_EQ(tune_with(request_of({"a", "b"}), constant({{"a", 10}, {"b", 9.94}})).rows[0].variant, "b");
}

TEST(Tuner, NoiseDoesNotReplaceTheDefault) {
    // The same kernel under two names, each call off by up to 10 %.
    for (unsigned seed = 1; seed <= 50; ++seed) {
        std::mt19937 random(seed);
        const auto time = [&](const std::string&, std::int64_t, int) {
            return std::uniform_real_distribution(9.0, 11.0)(random);
        };
        EXPECT_EQ(tune_with(request_of({"a", "b"}), time).rows[0].variant, "a") << seed;
    }
}

TEST(Tuner, AClockThatDriftsDoesNotChangeTheOrder) {
    // Every call is slower than the one before: whoever is measured last would lose.
    const auto drift = [](double us, int call) { return us * (1 + 0.02 * call); };
    for (const auto& variants : {std::vector<std::string>{"a", "b", "c"}, {"a", "c", "b"}}) {
        const Tuning tuning = tune_with(request_of(variants), [&](const std::string& variant, std::int64_t, int call) {
            return drift(variant == "b" ? 8 : 10, call);
        });
        EXPECT_EQ(tuning.rows[0].variant, "b");
    }
}

TEST(Tuner, RoundsAreInterleavedAndBeginWithAnotherCandidateEachTime) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, constant({{"a", 10}, {"b", 10}, {"c", 10}}));
    Request request = request_of({"a", "b", "c"});
    request.options.min_rounds = request.options.max_rounds = 3;
    (void)tune(request, runner, clock);
    // The first three warm up.
    EXPECT_EQ(runner.order, (std::vector<std::string>{"a", "b", "c", "a", "b", "c", "b", "c", "a", "c", "a", "b"}));
}

TEST(Tuner, WarmUpDoesNotCount) {
    const Tuning tuning = tune_with(request_of({"a", "b"}), [](const std::string& variant, std::int64_t, int call) {
        return call < 2 ? 1000.0 : (variant == "b" ? 8.0 : 10.0);
    });
    EXPECT_EQ(timed(tuning.rows[0], "a").high, 10);
}

TEST(Tuner, StopsEarlyWhenTheOrderIsSettledAndDropsTheClearlySlower) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, [time = test::undecided()](const std::string& variant, std::int64_t tokens, int call) {
        return time(variant, tokens, call) * (variant == "slow" ? 2 : 1);
    });
    const Tuning tuning = tune(request_of({"a", "b", "slow"}), runner, clock);
    EXPECT_EQ(timed(tuning.rows[0], "slow").rounds, 7);
    EXPECT_EQ(timed(tuning.rows[0], "b").rounds, 31) << "undecided: worth every round";
    ScriptedRunner clear(clock, constant({{"a", 10}, {"b", 8}}));
    EXPECT_EQ(tune(request_of({"a", "b"}), clear, clock).rows[0].timed[0].rounds, 7);
}

TEST(Tuner, WhatWasDroppedAtOneCountIsMeasuredAtTheNext) {
    const Tuning tuning =
        tune_with(request_of({"a", "b", "slow"}, {1, 64}),
                  [time = test::undecided()](const std::string& variant, std::int64_t tokens, int call) mutable {
                      if (variant == "slow") return tokens == 1 ? 30.0 : 5.0;
                      return time(variant, tokens, call);
                  });
    EXPECT_EQ(timed(tuning.rows[0], "slow").rounds, 7);
    EXPECT_EQ(tuning.rows[1].variant, "slow");
}

TEST(Tuner, NaNInfinityZeroAndNegativeTimesLose) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 0.0,
                             -1.0, -std::numeric_limits<double>::infinity()}) {
        const Tuning tuning = tune_with(request_of({"a", "b"}), constant({{"a", 10}, {"b", bad}}));
        EXPECT_EQ(tuning.rows[0].variant, "a");
        EXPECT_TRUE(tuning.rows[0].runner_up.empty());
        ASSERT_EQ(tuning.failed.size(), 1U);
        EXPECT_NE(tuning.failed[0].reason.find("was timed at"), std::string::npos);
    }
}

TEST(Tuner, AThrowingCandidateCostsOnlyItselfAndIsRecorded) {
    const Tuning tuning =
        tune_with(request_of({"a", "b", "c"}, {1, 2}), [](const std::string& variant, std::int64_t, int) -> double {
            if (variant == "b") throw Error(ErrorCode::device, "illegal address");
            if (variant == "c") throw 7;  // NOLINT: anything may come
            return 10;
        });
    ASSERT_EQ(tuning.rows.size(), 2U);
    for (const Row& row : tuning.rows) {
        EXPECT_EQ(row.variant, "a");
        EXPECT_EQ(timed(row, "b").error, "illegal address");
        EXPECT_NE(timed(row, "c").error.find("no std::exception"), std::string::npos);
    }
    ASSERT_EQ(tuning.failed.size(), 2U);
    EXPECT_EQ(tuning.failed[0].variant, "b");
    EXPECT_EQ(tuning.failed[0].tokens, 1);
    EXPECT_EQ(tuning.failed[0].reason, "illegal address");
}

TEST(Tuner, ACandidateThatFailsLaterIsInNoRow) {
    const Tuning tuning =
        tune_with(request_of({"a", "b", "c"}, {1, 64}), [](const std::string& variant, std::int64_t tokens, int) {
            if (variant == "b" && tokens == 64) throw std::runtime_error("crashed");
            return variant == "b" ? 5.0 : (variant == "c" ? 8.0 : 10.0);
        });
    EXPECT_EQ(tuning.rows[0].variant, "c") << "b was faster there, but it crashes elsewhere";
    EXPECT_EQ(timed(tuning.rows[0], "b").error, "crashed (at 64 tokens)");
    EXPECT_EQ(tuning.rows[1].variant, "c");
}

TEST(Tuner, AFailedCandidateIsNotTriedAgainAtLaterCounts) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, constant({{"a", 10}, {"b", 8}}));
    runner.on_check = [](const std::string& variant, std::int64_t) {
        if (variant == "b") throw Error(ErrorCode::internal, "differs from the oracle by 0.3");
    };
    const Tuning tuning = tune(request_of({"a", "b"}, {1, 2, 4}), runner, clock);
    EXPECT_EQ(std::count(runner.order.begin(), runner.order.end(), "b"), 0);
    EXPECT_EQ(runner.checked, (std::vector<std::string>{"a", "b"})) << "first contact is once per tuning";
    EXPECT_EQ(runner.prepared[1], (std::vector<std::string>{"a"}));
    EXPECT_EQ(tuning.failed[0].reason, "differs from the oracle by 0.3");
}

TEST(Tuner, WhenTheDefaultFailsTheBestOfTheOthersWins) {
    const Tuning tuning =
        tune_with(request_of({"a", "b", "c"}), [](const std::string& variant, std::int64_t, int) -> double {
            if (variant == "a") throw std::runtime_error("crashed");
            return variant == "b" ? 9 : 8;
        });
    EXPECT_EQ(tuning.rows[0].variant, "c");
    EXPECT_EQ(tuning.rows[0].fallback, "a");
    EXPECT_EQ(tuning.rows[0].fallback_us, 0);
}

TEST(Tuner, WhenAllFailThereIsNoRowAndAllAreRecorded) {
    const Tuning tuning =
        tune_with(request_of({"a", "b"}, {1, 2}),
                  [](const std::string&, std::int64_t, int) -> double { throw std::runtime_error("crashed"); });
    EXPECT_TRUE(tuning.rows.empty());
    ASSERT_EQ(tuning.skipped.size(), 2U);
    EXPECT_EQ(tuning.skipped[0].reason, "every candidate failed");
    EXPECT_EQ(tuning.skipped[1].reason, "no candidate is left");
    EXPECT_EQ(tuning.failed.size(), 2U);
}

TEST(Tuner, OutOfMemoryAtOneCountKeepsTheOthers) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, constant({{"a", 10}, {"b", 8}}));
    runner.on_prepare = [](std::int64_t tokens) {
        if (tokens == 512) throw Error(ErrorCode::out_of_memory, "moe: 80 GB are not free");
    };
    const Tuning tuning = tune(request_of({"a", "b"}, {1, 512, 1024}), runner, clock);
    ASSERT_EQ(tuning.rows.size(), 2U);
    EXPECT_EQ(tuning.rows[1].tokens, 1024);
    ASSERT_EQ(tuning.skipped.size(), 1U);
    EXPECT_EQ(tuning.skipped[0].tokens, 512);
    EXPECT_EQ(tuning.skipped[0].reason, "moe: 80 GB are not free");
    EXPECT_TRUE(tuning.failed.empty());
}

TEST(Tuner, ACandidateOutOfMemoryLosesOnlyThatCount) {
    for (const bool standard : {false, true}) {
        const Tuning tuning = tune_with(request_of({"a", "b"}, {1, 512, 1024}),
                                        [&](const std::string& variant, std::int64_t tokens, int) -> double {
                                            if (variant == "a" || tokens != 512) return variant == "a" ? 10 : 8;
                                            if (standard) throw std::bad_alloc();
                                            throw Error(ErrorCode::out_of_memory, "no memory");
                                        });
        ASSERT_EQ(tuning.rows.size(), 3U);
        EXPECT_EQ(tuning.rows[0].variant, "b");
        EXPECT_EQ(tuning.rows[1].variant, "a");
        EXPECT_NE(timed(tuning.rows[1], "b").error.find("memory"), std::string::npos);
        EXPECT_EQ(tuning.rows[2].variant, "b");
        EXPECT_TRUE(tuning.failed.empty()) << "nothing to remember";
    }
}

TEST(Tuner, ALargeTileWinsBecauseItsBuffersAreThereBeforeItIsTimed) {
    ScriptedClock clock;
    const std::map<std::string, double> intrinsic = {{"tile_16", 10}, {"tile_256", 9}};
    ScriptedRunner* self = nullptr;
    ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t, int) {
        const auto& sized = self->prepared.back();
        const bool there = std::find(sized.begin(), sized.end(), variant) != sized.end();
        return intrinsic.at(variant) + (there ? 0.0 : 50.0);  // an allocation
    });
    self = &runner;
    const Tuning tuning = tune(request_of({"tile_16", "tile_256"}, {64, 4096}), runner, clock);
    ASSERT_EQ(tuning.rows.size(), 2U);
    for (const Row& row : tuning.rows) {
        EXPECT_EQ(row.variant, "tile_256");
        EXPECT_EQ(row.us, 9);
    }
}

TEST(Tuner, RefusedCandidatesAreNeitherPreparedNorTimed) {
    const std::vector<std::string> table = {"a", "b", "c"};
    Request request = request_of({"a"});
    request.candidates = candidates_of(table, [](const std::string& variant) {
        if (variant == "b") return Support::no("needs 300 KB of shared memory, the device has 227");
        return variant == "c" ? Support::no("") : Support::yes();
    });
    ASSERT_EQ(request.candidates.size(), 3U);
    EXPECT_TRUE(request.candidates[0].refusal.empty());
    EXPECT_EQ(request.candidates[1].refusal, "needs 300 KB of shared memory, the device has 227");
    EXPECT_FALSE(request.candidates[2].refusal.empty());
    ScriptedClock clock;
    ScriptedRunner runner(clock, constant({{"a", 10}}));
    const Tuning tuning = tune(request, runner, clock);
    EXPECT_EQ(tuning.rows[0].variant, "a");
    EXPECT_EQ(runner.prepared[0], (std::vector<std::string>{"a"}));
    ASSERT_EQ(tuning.refused.size(), 2U) << "and they are listed with the reason";
    EXPECT_EQ(tuning.refused[0].variant, "b");
    EXPECT_EQ(tuning.refused[0].refusal, "needs 300 KB of shared memory, the device has 227");
}

TEST(Tuner, RequestsThatContradictThemselvesAreRefused) {
    ScriptedClock clock;
    ScriptedRunner runner(clock, constant({{"a", 10}, {"b", 8}}));
    const auto refuses = [&](const auto& change, const std::string& text) {
        Request request = request_of({"a", "b"}, {1, 2});
        change(request);
        expect_error([&] { (void)tune(request, runner, clock); }, text);
    };
    refuses([](Request& r) { r.buckets = {}; }, "`buckets`");
    refuses([](Request& r) { r.buckets = {0, 1}; }, "`buckets`");
    refuses([](Request& r) { r.buckets = {2, 2}; }, "`buckets`");
    refuses([](Request& r) { r.buckets = {2, 1}; }, "`buckets`");
    refuses([](Request& r) { r.candidates.push_back({"a", {}}); }, "names a twice");
    refuses([](Request& r) { r.candidates.clear(); }, "\"a\", is not among the candidates");
    refuses([](Request& r) { r.candidates[0].refusal = "too large"; }, "is not among the candidates");
    refuses([](Request& r) { r.options.min_rounds = 0; }, "`min_rounds` is 0");
    refuses([](Request& r) { r.options.max_rounds = 3; }, "`max_rounds` 3");
    EXPECT_TRUE(runner.order.empty());
}

}  // namespace
}  // namespace tokamak::tune
