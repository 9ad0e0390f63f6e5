// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "cli/run_tool.h"

namespace tokamak::test {
namespace {

TEST(Tool, prints_buckets_on_one_line) {
    const ToolResult result = run_tool({"tune", "buckets", "--max-tokens", "1000"});
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.out, "1 2 4 8 16 32 64 128 256 512 768 1000\n");
    EXPECT_EQ(run_tool({"tune", "buckets", "--max-tokens", "1"}).out, "1\n");
}

TEST(Tool, maps_counts_to_buckets) {
    const ToolResult result =
        run_tool({"tune", "map", "--max-tokens", "3000", "0", "1", "3", "256", "257", "2049", "2999"});
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.out, "1 1 4 256 512 2560 3000\n");
}

TEST(Tool, a_count_above_the_maximum_takes_the_nearest_bucket_and_says_so) {
    const ToolResult result = run_tool({"tune", "map", "--max-tokens", "100", "101"});
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.out, "100\n");
    EXPECT_NE(result.error.find("101"), std::string::npos);
}

TEST(Tool, bad_usage_exits_with_2_and_says_what_is_wrong) {
    for (const auto& arguments : std::vector<std::vector<std::string>>{{},
                                                                       {"no-such-command"},
                                                                       {"tune", "buckets"},
                                                                       {"tune", "buckets", "--max-tokens", "0"},
                                                                       {"tune", "buckets", "--max-tokens", "ten"},
                                                                       {"tune", "map", "--max-tokens", "8"},
                                                                       {"tune", "map", "--max-tokens", "8", "-1"}}) {
        const ToolResult result = run_tool(arguments);
        EXPECT_EQ(result.status, 2);
        EXPECT_EQ(result.out, "");
        EXPECT_EQ(result.error.rfind("tokamak: ", 0), 0U) << result.error;
    }
}

TEST(Tool, help_and_version_succeed) {
    EXPECT_EQ(run_tool({"--help"}).status, 0);
    EXPECT_EQ(run_tool({"tune", "--help"}).status, 0);
    const ToolResult version = run_tool({"--version"});
    EXPECT_EQ(version.status, 0);
    EXPECT_EQ(version.out.rfind("tokamak ", 0), 0U);
}

}  // namespace
}  // namespace tokamak::test
