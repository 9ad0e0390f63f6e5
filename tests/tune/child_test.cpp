// SPDX-License-Identifier: Apache-2.0
#include "tune/child.h"

#include <gtest/gtest.h>
#include <signal.h>  // NOLINT: SIGCHLD is POSIX

#include <chrono>
#include <filesystem>
#include <thread>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace tokamak::tune {
namespace {

ChildResult shell(const std::string& script, double seconds = 60) {
    return run_child({"/bin/sh", "-c", script}, seconds);
}

TEST(Child, EndsWellAndItsOutputIsKept) {
    const ChildResult result = shell("echo out; echo error >&2");
    EXPECT_TRUE(result.ok()) << result.failure();
    EXPECT_EQ(result.output, "out\nerror\n");
    EXPECT_EQ(result.failure(), "");
}

TEST(Child, ItsExitStatusAndLastLineSayWhatFailed) {
    const ChildResult result = shell("echo first; echo 'differs from the oracle by 0.3'; exit 3");
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(result.failure(), "exit status 3: differs from the oracle by 0.3");
    EXPECT_EQ(shell("exit 4").failure(), "exit status 4");
}

TEST(Child, ACrashIsNamedByItsSignal) {
    const ChildResult result = shell("kill -SEGV $$");
    EXPECT_EQ(result.signal, 11);
    EXPECT_EQ(result.failure(), "crashed: signal 11 (Segmentation fault)");
}

TEST(Child, WhoseStatusWasTakenBySomebodyElseCountsAsFailed) {
    const auto before = signal(SIGCHLD, SIG_IGN);  // the kernel then waits for children itself
    const ChildResult result = shell("exit 0");
    signal(SIGCHLD, before);
    EXPECT_FALSE(result.ok());
    EXPECT_NE(result.failure().find("its exit status was lost"), std::string::npos) << result.failure();
}

TEST(Child, AHangIsKilledWithAllThatItStarted) {
    const test::TemporaryFolder folder;
    const std::string mark = folder.file("mark");
    const ChildResult result = shell("(sleep 2; touch " + mark + ") & sleep 100", 0.2);
    EXPECT_TRUE(result.timed_out);
    EXPECT_EQ(result.failure().rfind("hung: killed after 0.", 0), 0U) << result.failure();
    std::this_thread::sleep_for(std::chrono::milliseconds(2300));
    EXPECT_FALSE(std::filesystem::exists(mark)) << "a process of the child lived on";
}

TEST(Child, WhatItLeftBehindDoesNotHoldTheParentUp) {
    const ChildResult result = shell("sleep 100 & echo done", 30);
    EXPECT_TRUE(result.ok()) << result.failure();
    EXPECT_EQ(result.output, "done\n");
}

TEST(Child, LongOutputIsCutAtItsBeginning) {
    const ChildResult result = shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1");
    EXPECT_EQ(result.output.size(), 4096U);
    EXPECT_EQ(result.failure(), "exit status 1: line 2999");
}

TEST(Child, APhantomProgramIsRefused) {
    test::expect_error([] { (void)run_child({"/no/such/program"}, 1); }, "/no/such/program", ErrorCode::io);
    test::expect_error([] { (void)run_child({}, 1); }, "`arguments` is empty");
}

TEST(Child, ManyAtATimeDoNotMeet) {
    std::vector<std::thread> threads;
    std::vector<std::string> outputs(4);
    for (std::size_t i = 0; i < outputs.size(); ++i)
        threads.emplace_back([&, i] { outputs[i] = shell("sleep 0.05; echo " + std::to_string(i)).output; });
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(outputs[i], std::to_string(i) + "\n");
}

}  // namespace
}  // namespace tokamak::tune
