// SPDX-License-Identifier: Apache-2.0
// Tuners, savers and readers in several threads. Also built with core and tuner under ThreadSanitizer (TOKAMAK_TSAN).
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "core/choose.h"
#include "core/config_store.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tune/scripted.h"

namespace tokamak::tune {
namespace {

constexpr int kThreads = 4;

template <class Work>
void in_threads(const Work& work) {
    std::vector<std::thread> threads;
    for (int index = 0; index < kThreads; ++index) threads.emplace_back([&work, index] { work(index); });
    for (std::thread& thread : threads) thread.join();
}

Tuning tuning_of(const std::string& problem, const std::string& winner) {
    Tuning tuning{.device = "cpu", .problem = problem, .build = "b"};
    tuning.rows.push_back({.tokens = 1, .variant = winner, .fallback = "x", .us = 10});
    return tuning;
}

TEST(TuneConcurrency, TunersOfDifferentThreadsDoNotMeet) {
    std::atomic<int> wrong = 0;
    in_threads([&](int index) {
        test::ScriptedClock clock;
        test::ScriptedRunner runner(clock, [&](const std::string& variant, std::int64_t, int) {
            if (!in_measurement()) ++wrong;
            return variant == "b" && index % 2 == 0 ? 8.0 : 10.0;
        });
        runner.on_prepare = [&](std::int64_t) {
            if (in_measurement()) ++wrong;
        };
        for (const Row& row : tune(test::request_of({"a", "b"}, token_buckets(4096)), runner, clock).rows)
            if (row.variant != (index % 2 == 0 ? "b" : "a")) ++wrong;
        if (in_measurement()) ++wrong;
    });
    EXPECT_EQ(wrong, 0);
}

TEST(TuneConcurrency, NoSaverLosesTheEntriesOfAnother) {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    constexpr int kSaves = 20;
    in_threads([&](int index) {
        for (int i = 0; i < kSaves; ++i)
            save(std::vector{tuning_of("p" + std::to_string(index * kSaves + i), "v")}, path);
    });
    const test::CapturedLog log;
    EXPECT_EQ(ConfigStore::load(path).size(), std::size_t{kThreads} * kSaves);
    EXPECT_TRUE(log.messages().empty());
}

TEST(TuneConcurrency, PlansAreMadeWhileTablesAreInstalledAndSaved) {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    const test::ScopedVariable variable(environment::kConfigStore, path);
    const test::CapturedLog log;
    std::atomic<bool> done = false;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> readers;
    for (int index = 0; index < kThreads; ++index)
        readers.emplace_back([&] {
            while (!done) {
                detail::PlanState state;
                choose_into(state, "live_op", Device::cpu(), 4, {}, "", {"x", "y"},
                            [](std::int64_t) { return std::string("x"); });
                const PlanRow& row = state.table[0];
                if (row.variant != "x" && row.variant != "y") ++wrong;
                if (row.source == "heuristic" && row.variant != "x") ++wrong;
            }
        });
    for (int i = 0; i < 50; ++i) {
        const std::vector tunings = {tuning_of("live_op", i % 2 == 0 ? "y" : "x")};
        if (i % 3 == 0)
            (void)install(serialize(tunings));
        else
            save(tunings, path);
    }
    done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(log.messages().empty());
}

}  // namespace
}  // namespace tokamak::tune
