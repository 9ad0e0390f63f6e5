// SPDX-License-Identifier: Apache-2.0
// The pack command as a user meets it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/progress_bar.h"
#include "cli/run_tool.h"
#include "formats/packed_checkpoint.h"

namespace tokamak::test {
namespace {

class PackCommand : public testing::Test {
  protected:
    void refuse(std::vector<std::string> options, const std::string& text) {
        options.insert(options.begin(), {"pack", checkpoint_.folder().path(), output_});
        const ToolResult result = run_tool(options);
        EXPECT_EQ(result.status, 2) << text;
        EXPECT_NE(result.error.find(text), std::string::npos) << result.error;
        EXPECT_FALSE(std::filesystem::exists(output_));
    }

    ShardedCheckpoint checkpoint_{layouts_to_pack()[0]};
    std::string output_ = checkpoint_.folder().file("out");
};

TEST_F(PackCommand, PacksAndVerifies) {
    const ToolResult result = run_tool({"pack", checkpoint_.folder().path(), output_, "--verify", "--layers", "3,11-11",
                                        "--tensor-slice", "1/2", "--expert-slice", "0/3", "--threads", "2"});
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_EQ(result.error, "");  // no bar where stderr is no terminal
    EXPECT_NE(result.out.find("2 layers"), std::string::npos) << result.out;
    EXPECT_NE(result.out.find("verified"), std::string::npos) << result.out;
    const PackedFile file = PackedFile::open(output_);
    EXPECT_EQ(file.layer(3).intermediate, 96);
    EXPECT_EQ(file.layer(3).num_experts, 1);
    const std::vector<std::string> again = {"pack",           checkpoint_.folder().path(), output_,          "--verify-only",
                                            "--tensor-slice", "1/2",                       "--expert-slice", "0/3"};
    const ToolResult verified = run_tool(again);
    EXPECT_EQ(verified.status, 0) << verified.error;
    EXPECT_NE(verified.out.find("equals its source"), std::string::npos) << verified.out;
}

TEST_F(PackCommand, RefusesNonsense) {
    refuse({"--layers", "3-"}, "--layers is '3-'");
    refuse({"--layers", "5-3"}, "--layers is '5-3'");
    refuse({"--layers", "a"}, "--layers is 'a'");
    refuse({"--layers", "5"}, "no experts of layer 5");
    refuse({"--tensor-slice", "2"}, "--tensor-slice is '2'");
    refuse({"--tensor-slice", "2/2"}, "a rank below the size");
    refuse({"--expert-slice", "x/2"}, "--expert-slice is 'x/2'");
    refuse({"--gptq-zeros", "v3"}, "--gptq-zeros");
    refuse({"--verify-only"}, "cannot be opened");
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
constexpr bool kAddressSanitizer = false;
#endif

/// A bf16 layer of zeros as a file with a hole for its data. Returns the size of the data.
std::int64_t write_hollow_layer(const std::string& path, std::int64_t experts, std::int64_t hidden,
                                std::int64_t intermediate) {
    nlohmann::json header;
    std::int64_t offset = 0;
    for (std::int64_t e = 0; e < experts; ++e)
        for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
            const bool down = name[0] == 'd';
            const std::int64_t bytes = 2 * hidden * intermediate;
            header["model.layers.0.mlp.experts." + std::to_string(e) + "." + name + ".weight"] = {
                {"dtype", "BF16"},
                {"shape", {down ? hidden : intermediate, down ? intermediate : hidden}},
                {"data_offsets", {offset, offset + bytes}}};
            offset += bytes;
        }
    const std::string json = header.dump();
    const auto length = static_cast<std::uint64_t>(json.size());
    write_file(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + json);
    std::filesystem::resize_file(path, sizeof length + json.size() + static_cast<std::size_t>(offset));
    return offset;
}

TEST(PackMemory, FilesLargerThanTheAddressSpaceStreamThrough) {
    if (kAddressSanitizer) GTEST_SKIP() << "AddressSanitizer needs the address space itself";
    const TemporaryFolder folder;
    const std::int64_t bytes = write_hollow_layer(folder.file("large"), 136, 1024, 512);
    constexpr rlim_t kLimit = rlim_t{256} << 20;
    ASSERT_GT(bytes, static_cast<std::int64_t>(3 * kLimit / 2));
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
    const rlimit small{kLimit, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_AS, &small), 0);
    const ToolResult result =
        run_tool({"pack", folder.file("large"), folder.file("out"), "--threads", "1", "--verify"});
    ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
    EXPECT_EQ(result.status, 0) << result.error;
    EXPECT_GT(std::filesystem::file_size(folder.file("out")), static_cast<std::uintmax_t>(bytes));
}

TEST(ProgressText, BytesAndTimes) {
    using cli::byte_text;
    using cli::duration_text;
    EXPECT_EQ(byte_text(0), "0 B");
    EXPECT_EQ(byte_text(999), "999 B");
    EXPECT_EQ(byte_text(1000), "1.0 kB");
    EXPECT_EQ(byte_text(999'999), "1.0 MB");
    EXPECT_EQ(byte_text(12.4e9), "12 GB");
    EXPECT_EQ(byte_text(5.55e15), "5550 TB");
    EXPECT_EQ(duration_text(0.2), "1 s");
    EXPECT_EQ(duration_text(59), "59 s");
    EXPECT_EQ(duration_text(61), "1 min 01 s");
    EXPECT_EQ(duration_text(7322), "2 h 02 min");
}

TEST(ProgressText, TheBarFitsItsWidth) {
    using cli::bar_line;
    EXPECT_EQ(bar_line("x", 25, 100, 5, 60), "x [####.............]  25%  25 B of 100 B  5 B/s  15 s left");
    EXPECT_EQ(bar_line("x", 50, 100, 0, 20), "x  50%  50 B of 100 B");
    EXPECT_EQ(bar_line("x", 0, 0, 1, 20), "x 100%  0 B of 0 B");
    for (std::size_t width = 50; width < 200; ++width)
        EXPECT_LE(bar_line("packing layer 3", 70, 100, 10, width).size(), std::max<std::size_t>(width, 60));
}

}  // namespace
}  // namespace tokamak::test
