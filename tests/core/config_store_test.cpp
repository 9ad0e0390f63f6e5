// SPDX-License-Identifier: Apache-2.0
#include "core/config_store.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "support/expect_error.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"

namespace tokamak {
namespace {

using test::CapturedLog;
using test::ScopedVariable;
using test::TemporaryFolder;

constexpr const char* kGood = R"({"device": "gpu", "problem": "good", "table": {"1": "v"}})";

std::string store_text(const std::string& entries) { return R"({"tokamak_store": 1, "entries": [)" + entries + "]}"; }

TEST(ConfigStore, RowsBetweenBucketsGoWithTheKernelsTheyWereMeasuredWith) {
    const auto row = [](std::int64_t tokens, const char* build) {
        return TunedRow{.tokens = tokens, .variant = "v", .us = 1, .build = build};
    };
    const auto counts_after = [&](const char* build) {
        ConfigStore store;
        store.set("gpu", "p", {row(4, "old"), row(6, "old"), row(8, "old"), row(12, "old"), row(48, "old")});
        ConfigStore newer;
        newer.set("gpu", "p", {row(4, build), row(16, build), row(32, build)});
        store.merge(newer);
        std::vector<std::int64_t> counts;
        for (const TunedRow& kept : *store.find("gpu", "p")) counts.push_back(kept.tokens);
        return counts;
    };
    EXPECT_EQ(counts_after("old"), (std::vector<std::int64_t>{4, 6, 8, 12, 16, 32, 48}));
    EXPECT_EQ(counts_after("new"), (std::vector<std::int64_t>{4, 8, 16, 32, 48})) << "8 is a bucket, 48 lies above";
}

TEST(ConfigStore, RoundTripKeepsEveryEntry) {
    ConfigStore store;
    store.set("NVIDIA H200", "fused_moe hidden 7168", {{1, "decode_a"}, {64, "decode_b"}, {8192, "grouped"}});
    store.set("NVIDIA H200", "quotes \" and \\ and \n", {{2, "v"}});
    store.set("cpu", "fused_moe hidden 7168", {{1, "cpu_f32"}});
    const CapturedLog log;
    const ConfigStore read = ConfigStore::parse(store.to_json(), "text");
    EXPECT_TRUE(log.messages().empty());
    EXPECT_EQ(read.size(), 3U);
    EXPECT_EQ(read.to_json(), store.to_json());
    const TunedTable* table = read.find("NVIDIA H200", "fused_moe hidden 7168");
    ASSERT_NE(table, nullptr);
    // Ascending by number: "8192" stands before "64" as text.
    EXPECT_EQ(*table, (TunedTable{{1, "decode_a"}, {64, "decode_b"}, {8192, "grouped"}}));
    EXPECT_EQ(read.find("NVIDIA H100", "fused_moe hidden 7168"), nullptr);
}

TEST(ConfigStore, SetReplaces) {
    ConfigStore store;
    store.set("gpu", "p", {{1, "old"}});
    store.set("gpu", "p", {{1, "new"}});
    EXPECT_EQ(store.size(), 1U);
    EXPECT_EQ(store.find("gpu", "p")->at(0).variant, "new");
}

TEST(ConfigStore, TextThatIsNoStoreIsOneWarning) {
    const std::string deep = std::string(100000, '[') + std::string(100000, ']');
    for (const std::string& text :
         {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("\xFF\xFE"),
          std::string("{}"), std::string(R"({"tokamak_store": 1})"),
          std::string(R"({"tokamak_store": 1, "entries": {}})"), std::string(R"({"tokamak_store": 2, "entries": []})"),
          std::string(R"({"tokamak_store": "1", "entries": []})"), std::string(R"({"entries": []})"),
          store_text(kGood).substr(0, 50), deep}) {
        const CapturedLog log;
        EXPECT_EQ(ConfigStore::parse(text, "origin.json").size(), 0U);
        EXPECT_NE(log.only().find("origin.json: not a Tokamak configuration store"), std::string::npos) << log.only();
    }
}

TEST(ConfigStore, EachMalformedEntryIsOneWarningAndTheOthersStay) {
    for (
        const std::string bad :
        {"7",
         "null",
         "{}",
         R"({"device": "gpu", "problem": "x"})",
         R"({"device": 1, "problem": "x", "table": {"1": "v"}})",
         R"({"device": "gpu", "problem": [], "table": {"1": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": []})",
         R"({"device": "gpu", "problem": "x", "table": {}})",
         R"({"device": "gpu", "problem": "x", "table": {"0": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"-4": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"one": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"1.5": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"99999999999999999999": "v"}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": 2}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v", "01": "w"}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v", "2": null}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": []})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"2": {"us": 1}}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"1": {"us": 0}}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"1": {"us": "1"}}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"1": {"us": 1, "runner_up": "w"}}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"1": 7}})",
         R"({"device": "gpu", "problem": "x", "table": {"1": "v"}, "measured": {"1": {"us": 1, "build": 7}}})",
         R"({"device": "gpu", "problem": "x", "table": {}, "failed": {}})",
         R"({"device": "gpu", "problem": "x", "table": {}, "failed": {"v": "crashed"}})",
         R"({"device": "gpu", "problem": "x", "table": {}, "failed": {"v": {"build": "b", "error": "e"}}})",
         R"({"device": "gpu", "problem": "x", "table": {}, "failed": {"v": {"build": "b", "error": "e", "tokens": -1}}})"}) {
        const CapturedLog log;
        const ConfigStore store = ConfigStore::parse(store_text(std::string(kGood) + ", " + bad), "s.json");
        EXPECT_EQ(store.size(), 1U) << bad;
        EXPECT_NE(store.find("gpu", "good"), nullptr) << bad;
        EXPECT_EQ(log.only(), "s.json: entry 1 is malformed; ignored") << bad;
    }
}

TEST(ConfigStore, UnknownKeysAreIgnored) {
    const CapturedLog log;
    const std::string text =
        R"({"tokamak_store": 1, "made by": "me", "entries": [{"device": "d", "problem": "p", "note": 3, "table": {"4": "v"}}]})";
    EXPECT_EQ(ConfigStore::parse(text, "s").size(), 1U);
    EXPECT_TRUE(log.messages().empty());
}

TEST(ConfigStore, NamesThatAreNoUtf8CanStillBeWritten) {
    ConfigStore store;
    store.set("gpu \xFF", "p", {{1, "v"}});
    const CapturedLog log;
    EXPECT_EQ(ConfigStore::parse(store.to_json(), "s").size(), 1U);
    EXPECT_TRUE(log.messages().empty());
}

TEST(ConfigStore, FilesMissingEmptyAndUnreadable) {
    const TemporaryFolder folder;
    {
        const CapturedLog log;
        EXPECT_EQ(ConfigStore::load(folder.file("missing.json")).size(), 0U);
        EXPECT_TRUE(log.messages().empty());
    }
    {
        const CapturedLog log;
        EXPECT_EQ(ConfigStore::load(folder.write("empty.json", "")).size(), 0U);
        EXPECT_NE(log.only().find("not a Tokamak configuration store"), std::string::npos);
    }
    {
        const CapturedLog log;
        EXPECT_EQ(ConfigStore::load(folder.path()).size(), 0U);
        EXPECT_NE(log.only().find("could not be read"), std::string::npos);
    }
}

TEST(ConfigStore, SaveReplacesTheFileAndLeavesNothingElse) {
    const TemporaryFolder folder;
    const std::string path = folder.write("store.json", "what stood there before");
    ConfigStore store;
    store.set("gpu", "p", {{1, "v"}});
    store.save(path);
    store.save(path);
    EXPECT_EQ(test::read_file(path), store.to_json());
    const auto files = std::filesystem::directory_iterator(folder.path());
    EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(ConfigStore, SaveThatCannotSucceedSaysSoAndKeepsTheOldFile) {
    const TemporaryFolder folder;
    const ConfigStore store;
    test::expect_error([&] { store.save(folder.file("no/such/folder.json")); }, ErrorCode::io,
                       {"could not save", "no/such/folder.json"});
    // A directory in the way cannot be replaced by a file.
    std::filesystem::create_directories(folder.file("taken/inside"));
    test::expect_error([&] { store.save(folder.file("taken")); }, ErrorCode::io, {"could not save"});
    const auto files = std::filesystem::directory_iterator(folder.path());
    EXPECT_EQ(std::distance(begin(files), end(files)), 1) << "the partial file stayed";
}

TEST(ConfigStore, ShippedTablesAreWellFormed) {
    const CapturedLog log;
    EXPECT_EQ(&ConfigStore::shipped(), &ConfigStore::shipped());
    EXPECT_TRUE(log.messages().empty());
}

TEST(ConfigStore, RoundTripKeepsWhatWasMeasuredAndWhatFailed) {
    ConfigStore store;
    store.set("gpu", "p", {{1, "a", 10.5, "b", 11.25}, {2, "a"}, {4, "b", 7.0}});
    store.set_failed("gpu", "p", "c", {"build", 2, "crashed with \"signal 11\""});
    store.set_failed("gpu", "only failures", "d", {"build", 0, "hung"});
    const CapturedLog log;
    const ConfigStore read = ConfigStore::parse(store.to_json(), "text");
    EXPECT_TRUE(log.messages().empty());
    EXPECT_EQ(*read.find("gpu", "p"), *store.find("gpu", "p"));
    EXPECT_EQ(read.entry("gpu", "p")->failed, store.entry("gpu", "p")->failed);
    EXPECT_TRUE(read.find("gpu", "only failures")->empty());
    EXPECT_EQ(read.entry("gpu", "only failures")->failed.at("d").error, "hung");
    EXPECT_EQ(read.entry("gpu", "other"), nullptr);
}

TEST(ConfigStore, MergeTakesNewerRowsBucketByBucketAndKeepsTheRest) {
    ConfigStore store;
    store.set("gpu", "p", {{1, "old"}, {64, "old"}, {256, "old"}});
    store.set("gpu", "q", {{1, "old"}});
    ConfigStore newer;
    newer.set("gpu", "p", {{2, "new"}, {64, "new", 5.0}});
    newer.set("other gpu", "p", {{1, "new"}});
    store.merge(newer);
    EXPECT_EQ(*store.find("gpu", "p"), (TunedTable{{1, "old"}, {2, "new"}, {64, "new", 5.0}, {256, "old"}}));
    EXPECT_EQ(*store.find("gpu", "q"), (TunedTable{{1, "old"}}));
    EXPECT_EQ(*store.find("other gpu", "p"), (TunedTable{{1, "new"}}));
    const std::string once = store.to_json();
    store.merge(newer);
    EXPECT_EQ(store.to_json(), once);
}

TEST(ConfigStore, MergeKeepsRowsAndFailuresOfAVariantApart) {
    ConfigStore store;
    store.set("gpu", "p", {{1, "a"}, {2, "b"}});
    store.set_failed("gpu", "p", "c", {"build", 1, "crashed"});
    store.set_failed("gpu", "p", "d", {"build", 1, "crashed"});
    ConfigStore newer;
    newer.set("gpu", "p", {{4, "c"}});
    newer.set_failed("gpu", "p", "a", {"build", 4, "hung"});
    store.merge(newer);
    EXPECT_EQ(*store.find("gpu", "p"), (TunedTable{{2, "b"}, {4, "c"}})) << "a failed, so it is in no row";
    const auto& failed = store.entry("gpu", "p")->failed;
    EXPECT_EQ(failed.count("a"), 1U);
    EXPECT_EQ(failed.count("c"), 0U) << "c ran";
    EXPECT_EQ(failed.count("d"), 1U);
}

TEST(ConfigStore, SavedMergedIntoTheFile) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    ConfigStore first;
    first.set("gpu", "p", {{1, "a"}});
    ConfigStore second;
    second.set("gpu", "q", {{1, "b"}});
    first.save_merged(path);
    second.save_merged(path);
    const ConfigStore both = ConfigStore::load(path);
    EXPECT_EQ(both.size(), 2U);
    EXPECT_NE(both.find("gpu", "p"), nullptr);
}

TEST(ConfigStore, AForeignFileIsNotOverwritten) {
    const TemporaryFolder folder;
    ConfigStore store;
    store.set("gpu", "p", {{1, "a"}});
    for (const char* text : {"", "my notes", R"({"tokamak_store": 2, "entries": []})", R"({"name": "package"})"}) {
        const std::string path = folder.write("file.json", text);
        test::expect_error([&] { store.save_merged(path); }, ErrorCode::io, {path, "not overwritten"});
        EXPECT_EQ(test::read_file(path), text);
    }
    test::expect_error([&] { store.save_merged(folder.file("no/folder.json")); }, ErrorCode::io, {"could not save"});
}

TEST(ConfigStore, UserStoreFollowsVariableAndFile) {
    const TemporaryFolder folder;
    const std::string path = folder.file("store.json");
    const auto save = [&](const std::string& variant) {
        ConfigStore store;
        store.set("gpu", "p", {{1, variant}});
        store.save(path);
    };
    const auto variant = [] {
        const auto store = ConfigStore::user();
        const TunedTable* table = store->find("gpu", "p");
        return table == nullptr ? std::string("none") : table->at(0).variant;
    };
    const ScopedVariable unset(environment::kConfigStore, std::nullopt);
    EXPECT_EQ(variant(), "none");
    const ScopedVariable set(environment::kConfigStore, path);
    EXPECT_EQ(variant(), "none");
    save("a");
    EXPECT_EQ(variant(), "a");
    const auto kept = ConfigStore::user();
    EXPECT_EQ(ConfigStore::user(), kept) << "read again without a change";
    // Also within one tick of the file system's clock.
    const auto time = std::filesystem::last_write_time(path);
    save("b");
    std::filesystem::last_write_time(path, time);
    EXPECT_EQ(variant(), "b");
    EXPECT_EQ(kept->find("gpu", "p")->at(0).variant, "a") << "a store in use changed";
    std::filesystem::remove(path);
    EXPECT_EQ(variant(), "none");
}

TEST(ConfigStore, ABrokenUserStoreWarnsOnceForEachVersion) {
    const TemporaryFolder folder;
    const ScopedVariable set(environment::kConfigStore, folder.write("store.json", "nonsense"));
    const CapturedLog log;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(ConfigStore::user()->size(), 0U);
    EXPECT_EQ(log.messages().size(), 1U);
}

TEST(ConfigStore, ASinkThatIsToldOfABadStoreMayAskForTheStore) {
    const TemporaryFolder folder;
    const ScopedVariable set(environment::kConfigStore, folder.write("store.json", "nonsense"));
    int told = 0;
    LogSink previous = set_log_sink([&told](const std::string&) {
        ++told;
        EXPECT_NE(ConfigStore::user(), nullptr);
    });
    (void)ConfigStore::user();
    set_log_sink(std::move(previous));
    EXPECT_EQ(told, 1);
}

TEST(ConfigStore, FailuresAtCountsThatNoCallCanHaveAreMalformed) {
    const CapturedLog log;
    const ConfigStore read = ConfigStore::parse(
        store_text(R"({"device": "gpu", "problem": "p", "table": {}, "failed": {"v": {"build": "b", "tokens": )"
                   R"(18446744073709551615, "error": "e"}}})"),
        "text");
    EXPECT_EQ(read.size(), 0U);
    EXPECT_EQ(log.messages().size(), 1U);
}

}  // namespace
}  // namespace tokamak
