// SPDX-License-Identifier: Apache-2.0
// `tokamak tune` on a device: child processes first, then graphs, each candidate compared with the oracle.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "cli/run_tool.h"
#include "core/environment.h"
#include "cuda/gpu.h"
#include "support/scoped.h"

namespace tokamak::cli {
namespace {

using test::run_tool;

nlohmann::json tuned(const std::vector<std::string>& arguments, const std::string& json) {
    std::vector<std::string> all = arguments;
    all.insert(all.end(), {"--out", json});
    const auto result = run_tool(all);
    EXPECT_EQ(result.status, 0) << result.error << result.out;
    return nlohmann::json::parse(test::read_file(json));
}

/// A winner at each of these counts; counts between them may have one too.
void expect_winners(const nlohmann::json& document, const std::set<std::int64_t>& counts) {
    EXPECT_TRUE(document["failed"].empty()) << document["failed"];
    EXPECT_TRUE(document["skipped"].empty()) << document["skipped"];
    std::size_t winners = 0;
    for (const auto& row : document["rows"])
        if (row["source"] == "tuned" && counts.count(row["tokens"].get<std::int64_t>()) > 0) ++winners;
    EXPECT_EQ(winners, counts.size());
    EXPECT_GT(document["rows"].size(), counts.size()) << "every candidate is listed";
}

TEST(TuneToolOnADevice, TunesALayerAndPlansTakeTheWinners) {
    TOKAMAK_REQUIRE_GPU();
    const test::TemporaryFolder folder;
    const std::string store = folder.file("store.json");
    const std::vector<std::string> sizes = {"--hidden",  "512", "--intermediate", "256",
                                            "--experts", "16",  "--top-k",        "4"};
    std::vector<std::string> arguments = {"tune", "moe",      "--formats", "int4_g32", "--tokens",
                                          "1,64", "--memory", "200000000", "--store",  store};
    arguments.insert(arguments.end(), sizes.begin(), sizes.end());
    expect_winners(tuned(arguments, folder.file("tuning.json")), {1, 64});
    const test::ScopedVariable variable(environment::kConfigStore, store);
    std::vector<std::string> explain = {"explain",  "moe",      "--device",     "cuda",
                                        "--format", "int4_g32", "--max-tokens", "64"};
    explain.insert(explain.end(), sizes.begin(), sizes.end());
    const auto explained = run_tool(explain);
    EXPECT_NE(explained.out.find("(tuned at 64"), std::string::npos) << explained.out << explained.error;
}

TEST(TuneToolOnADevice, TunesSparseAttention) {
    TOKAMAK_REQUIRE_GPU();
    const test::TemporaryFolder folder;
    expect_winners(
        tuned({"tune", "mla", "--shapes", "v4-h64", "--formats", "fp8_584", "--tokens", "1,8", "--memory", "400000000"},
              folder.file("tuning.json")),
        {1, 8});
}

TEST(TuneToolOnADevice, ACandidateThatHangsIsKilledAndRecorded) {
    TOKAMAK_REQUIRE_GPU();
    const test::TemporaryFolder folder;
    const std::string json = folder.file("tuning.json");
    // No step ends in a microsecond: the watchdog takes each candidate for one that hangs.
    const auto result = run_tool({"tune",      "moe", "--hidden", "512",       "--intermediate",      "256",
                                  "--experts", "16",  "--top-k",  "4",         "--formats",           "int4_g32",
                                  "--tokens",  "1",   "--memory", "200000000", "--candidate-seconds", "0.000001",
                                  "--out",     json});
    EXPECT_EQ(result.status, 0) << result.error;
    const auto document = nlohmann::json::parse(test::read_file(json));
    ASSERT_FALSE(document["failed"].empty());
    EXPECT_NE(document["failed"][0]["reason"].get<std::string>().find("hung"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::cli
