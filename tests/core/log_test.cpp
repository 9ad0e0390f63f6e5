// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/scoped.h"

namespace tokamak {
namespace {

TEST(Log, WarningsReachTheSinkThatIsSet) {
    const test::CapturedLog outer;
    warn("one");
    {
        const test::CapturedLog inner;
        warn("two");
        EXPECT_EQ(inner.messages(), std::vector<std::string>{"two"});
    }
    warn("three");
    EXPECT_EQ(outer.messages(), (std::vector<std::string>{"one", "three"}));
}

TEST(Log, AnEmptySinkDropsThem) {
    const test::CapturedLog log;
    LogSink previous = set_log_sink({});
    warn("nobody hears this");
    set_log_sink(std::move(previous));
    EXPECT_TRUE(log.messages().empty());
}

TEST(Log, ASinkMayReplaceItselfAndWarn) {
    const test::CapturedLog log;
    std::vector<std::string> heard;
    LogSink captured = set_log_sink({});
    set_log_sink([&heard, &captured](const std::string& message) {
        set_log_sink(captured);
        heard.push_back(message);
        warn("from inside");
    });
    warn("first");
    EXPECT_EQ(heard, std::vector<std::string>{"first"});
    EXPECT_EQ(log.messages(), std::vector<std::string>{"from inside"});
}

TEST(Log, HeldWarningsComeWhenTheOutermostScopeEnds) {
    const test::CapturedLog log;
    {
        const HeldWarnings outer;
        {
            const HeldWarnings inner;
            warn("one");
        }
        warn("two");
        EXPECT_TRUE(log.messages().empty());
    }
    EXPECT_EQ(log.messages(), (std::vector<std::string>{"one", "two"}));
    warn("three");
    EXPECT_EQ(log.messages().size(), 3U);
}

TEST(Log, TheDefaultWritesOneLineToStandardError) {
    // In a process of its own: the default sink is the one that a fresh process has.
    EXPECT_EXIT(
        {
            warn("a thing happened");
            std::exit(0);
        },
        ::testing::ExitedWithCode(0), "tokamak: a thing happened\n");
}

}  // namespace
}  // namespace tokamak
