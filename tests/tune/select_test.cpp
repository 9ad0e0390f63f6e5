// SPDX-License-Identifier: Apache-2.0
#include "tune/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tokamak::tune {
namespace {

constexpr double kGain = 0.005;

std::vector<Samples> of(std::initializer_list<std::vector<double>> lists) {
    std::vector<Samples> all;
    for (const auto& list : lists) all.push_back({list});
    return all;
}

std::vector<double> flat(double us, std::size_t rounds = 9) { return std::vector<double>(rounds, us); }

TEST(Select, MedianAndIntervalOfFewSamplesAreTheirRange) {
    const Interval five = median_interval({5, 1, 4, 2, 3});
    EXPECT_EQ(five.low, 1);
    EXPECT_EQ(five.median, 3);
    EXPECT_EQ(five.high, 5);
    EXPECT_EQ(median_interval({7}).median, 7);
    EXPECT_EQ(median_interval({1, 2}).median, 1.5);
}

/// Orders of the binomial distribution, from tables: 9 samples leave out 1 at each end, 20 leave out 5, 31 leave out 9.
TEST(Select, IntervalLeavesOutTheTabulatedNumberOfSamples) {
    for (const auto& [count, left_out] : {std::pair(6, 0), {8, 0}, {9, 1}, {12, 2}, {20, 5}, {31, 9}}) {
        std::vector<double> values;
        for (int i = 0; i < count; ++i) values.push_back(i);
        std::shuffle(values.begin(), values.end(), std::mt19937(1));
        EXPECT_EQ(median_interval(values).low, left_out) << count;
        EXPECT_EQ(median_interval(values).high, count - 1 - left_out) << count;
    }
}

TEST(Select, IntervalCoversTheTrueMedian) {
    std::mt19937 random(20);
    std::lognormal_distribution<double> distribution(0, 0.3);  // true median 1
    int covered = 0;
    for (int trial = 0; trial < 2000; ++trial) {
        std::vector<double> values(15);
        for (double& value : values) value = distribution(random);
        const Interval interval = median_interval(values);
        covered += interval.low <= 1 && 1 <= interval.high ? 1 : 0;
    }
    EXPECT_GT(covered, 1880);  // 95 % and more by construction
}

TEST(Select, TheFasterOneWinsAndTheOtherIsTheRunnerUp) {
    const auto selection = select(of({flat(10), flat(8), flat(9)}), 0, kGain);
    EXPECT_EQ(selection->winner, 1U);
    EXPECT_EQ(selection->runner_up, 2U);
}

TEST(Select, TiesGoToTheDefaultThenToTheFirst) {
    EXPECT_EQ(select(of({flat(9), flat(9), flat(9)}), 1, kGain)->winner, 1U);
    EXPECT_EQ(select(of({flat(8), flat(9), flat(8)}), 1, kGain)->winner, 0U);
    EXPECT_EQ(select(of({flat(9), flat(9), flat(9)}), 1, kGain)->runner_up, 0U);
}

TEST(Select, AWinBelowTheMarginIsNone) {
    EXPECT_EQ(select(of({flat(10), flat(9.96)}), 0, kGain)->winner, 0U);
    EXPECT_EQ(select(of({flat(10), flat(9.94)}), 0, kGain)->winner, 1U);
    EXPECT_EQ(select(of({flat(10), flat(9.96)}), 0, kGain)->runner_up, 1U) << "faster, but it did not win";
}

TEST(Select, AWinWithinTheNoiseIsNone) {
    // Median 3 % below the default, but above it in three rounds of nine.
    const std::vector<double> noisy = {9.7, 9.7, 9.7, 9.7, 9.7, 9.7, 10.5, 10.5, 10.5};
    EXPECT_EQ(select(of({flat(10), noisy}), 0, kGain)->winner, 0U);
    // A slower one without noise wins instead.
    EXPECT_EQ(select(of({flat(10), noisy, flat(9.8)}), 0, kGain)->winner, 2U);
}

TEST(Select, DriftOfTheClockCancelsInEachRound) {
    std::vector<double> slow;
    std::vector<double> fast;
    for (int i = 0; i < 9; ++i) {
        slow.push_back(10 * (1 + 0.3 * i));
        fast.push_back(9.8 * (1 + 0.3 * i));
    }
    EXPECT_EQ(select(of({slow, fast}), 0, kGain)->winner, 1U);
    EXPECT_EQ(select(of({fast, slow}), 0, kGain)->winner, 0U);
}

TEST(Select, WithoutTheDefaultTheLeastMedianWinsAndWithoutAnyNone) {
    auto candidates = of({flat(1), flat(9), flat(8.99)});
    candidates[0].usable = false;
    EXPECT_EQ(select(candidates, 0, kGain)->winner, 2U);
    candidates[1].usable = candidates[2].usable = false;
    EXPECT_FALSE(select(candidates, 0, kGain).has_value());
    candidates[1].usable = true;
    EXPECT_FALSE(select(candidates, 0, kGain)->runner_up.has_value());
}

TEST(Select, SettledWhenTheOrderIsClear) {
    EXPECT_TRUE(settled(of({flat(10), flat(8), flat(9)}), 0, kGain));
    EXPECT_TRUE(settled(of({flat(8), flat(10), flat(9)}), 0, kGain));
    EXPECT_TRUE(settled(of({flat(10)}), 0, kGain));
    EXPECT_TRUE(settled(of({flat(10), flat(10)}), 0, kGain)) << "none can gain anything";
    EXPECT_TRUE(settled(of({flat(10), flat(8), flat(8)}), 0, kGain)) << "which of the two does not matter";
    const std::vector<double> noisy = {8, 8, 8, 8, 12, 12, 12, 12, 8};
    EXPECT_FALSE(settled(of({flat(10), noisy}), 0, kGain));
    EXPECT_FALSE(settled(of({flat(20), flat(10), noisy}), 0, kGain));
}

TEST(Select, ClearlySlowerOnesAreNamedButNeverTheDefault) {
    EXPECT_EQ(clearly_slower(of({flat(20), flat(10), flat(10.4), flat(10.6)}), 0, 0.05), (std::vector<std::size_t>{3}));
    EXPECT_TRUE(clearly_slower(of({flat(20), flat(10)}), 0, 0.05).empty());
}

TEST(Select, RoundsThatOnlyOneHasDoNotCount) {
    EXPECT_EQ(ratio_interval(flat(8, 9), flat(10, 3)).median, 0.8);
    // The dropped one's few rounds are compared with the same rounds of the default.
    EXPECT_EQ(select(of({{10, 10, 20, 20, 20}, {9, 9}}), 0, kGain)->winner, 1U);
}

}  // namespace
}  // namespace tokamak::tune
