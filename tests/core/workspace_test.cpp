// SPDX-License-Identifier: Apache-2.0
#include "tokamak/workspace.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "support/expect_error.h"

namespace tokamak {
namespace {

using test::expect_error;

constexpr std::size_t kLimit = std::numeric_limits<std::int64_t>::max();

TEST(WorkspaceLayout, EmptyAsksForNothingAndTakesAnything) {
    const WorkspaceLayout layout;
    EXPECT_EQ(layout.size(), (WorkspaceSize{0, 256}));
    EXPECT_NO_THROW(layout.check(Workspace{}, Device::cuda(), "op"));
}

TEST(WorkspaceLayout, SlicesAreAlignedAndTheSizeIsTheEndOfTheLast) {
    WorkspaceLayout layout;
    const auto a = layout.add<std::uint8_t>("a", 1);
    const auto b = layout.add<double>("b", 33);
    const auto c = layout.add<std::int32_t>("c", 64);
    const auto d = layout.add<std::int16_t>("d", 3);
    EXPECT_EQ(a.offset, 0U);
    EXPECT_EQ(b.offset, 256U);
    EXPECT_EQ(c.offset, 768U);  // b ends at 520
    EXPECT_EQ(d.offset, 1024U);
    EXPECT_EQ(layout.size(), (WorkspaceSize{1030, 256}));
    ASSERT_EQ(layout.entries().size(), 4U);
    EXPECT_EQ(layout.entries()[1].name, "b");
    EXPECT_EQ(layout.entries()[1].bytes, 33U * 8);
}

TEST(WorkspaceLayout, RandomBookingsNeverOverlapAndStayInside) {
    std::mt19937 random(std::random_device{}());
    for (int round = 0; round < 100; ++round) {
        WorkspaceLayout layout;
        std::size_t minimum = 0;  // no layout of aligned slices is smaller
        const int slices = 1 + static_cast<int>(random() % 40);
        for (int i = 0; i < slices; ++i) {
            const std::size_t count = random() % 3 == 0 ? random() % 4 : random() % 5000;
            const std::string name = "slice" + std::to_string(i);
            minimum = (minimum + 255) / 256 * 256;
            if (random() % 2 == 0) {
                layout.add<double>(name, count);
                minimum += count * 8;
            } else {
                layout.add<char>(name, count);
                minimum += count;
            }
        }
        EXPECT_EQ(layout.size().bytes, minimum);
        std::vector<int> owner(layout.size().bytes, -1);
        int index = 0;
        for (const auto& entry : layout.entries()) {
            ASSERT_EQ(entry.offset % 256, 0U);
            ASSERT_LE(entry.offset + entry.bytes, layout.size().bytes);
            for (std::size_t byte = entry.offset; byte < entry.offset + entry.bytes; ++byte) {
                ASSERT_EQ(owner[byte], -1) << entry.name << " overlaps slice " << owner[byte];
                owner[byte] = index;
            }
            ++index;
        }
    }
}

TEST(WorkspaceLayout, SlicesPointIntoAnyWorkspace) {
    WorkspaceLayout layout;
    (void)layout.add<float>("first", 10);
    const auto second = layout.add<std::int32_t>("second", 5);
    const OwnedWorkspace memory(layout.size(), Device::cpu());
    EXPECT_EQ(reinterpret_cast<std::byte*>(second.in(memory)), static_cast<std::byte*>(memory.view().data) + 256);
    const std::span<std::int32_t> values = second.span_in(memory);
    EXPECT_EQ(values.size(), 5U);
    for (auto& value : values) value = 7;
}

TEST(WorkspaceLayout, NamesAreGivenAndUnique) {
    WorkspaceLayout layout;
    (void)layout.add<char>("rows", 1);
    expect_error([&] { layout.add<float>("rows", 1); }, "slice `rows` is booked twice");
    expect_error([&] { layout.add<float>("", 1); }, "needs a name");
    EXPECT_EQ(layout.entries().size(), 1U);
}

TEST(WorkspaceLayout, SizesBeyond63BitsAreRefusedAndChangeNothing) {
    WorkspaceLayout layout;
    expect_error([&] { layout.add<double>("huge", kLimit / 8 + 1); }, ErrorCode::invalid_argument,
                 {"slice `huge`", "of 8 bytes", "2^63"});
    expect_error([&] { layout.add<double>("all", std::numeric_limits<std::size_t>::max()); }, "2^63");
    EXPECT_EQ(layout.size().bytes, 0U);
    (void)layout.add<char>("fits", kLimit);
    EXPECT_EQ(layout.size().bytes, kLimit);
    // The next offset would be 2^63 itself.
    expect_error([&] { layout.add<char>("one", 1); }, "2^63");
    expect_error([&] { layout.add<char>("none", 0); }, "2^63");
    EXPECT_EQ(layout.size().bytes, kLimit);
    EXPECT_EQ(layout.entries().size(), 1U);
}

TEST(WorkspaceLayout, CheckNamesWhatIsWrongWithAWorkspace) {
    WorkspaceLayout layout;
    (void)layout.add<float>("rows", 100);
    const OwnedWorkspace memory({1024, 256}, Device::cpu());
    const Workspace good = memory;
    EXPECT_NO_THROW(layout.check(good, Device::cpu(), "fused_moe"));
    EXPECT_NO_THROW(layout.check({good.data, 400, Device::cpu()}, Device::cpu(), "fused_moe"));
    const auto refuses = [&](const Workspace& workspace, const std::string& text) {
        expect_error([&] { layout.check(workspace, Device::cpu(), "fused_moe"); }, ErrorCode::invalid_argument,
                     {"fused_moe: `workspace`", text});
    };
    refuses({good.data, 399, Device::cpu()}, "has 399 bytes, expected at least 400");
    refuses({nullptr, 1024, Device::cpu()}, "null data");
    refuses({static_cast<std::byte*>(good.data) + 128, 800, Device::cpu()}, "expected alignment to 256 bytes");
    refuses({good.data, 1024, Device::cuda(1)}, "is on cuda:1, expected cpu");
    refuses({}, "has 0 bytes");
}

TEST(WorkspaceSize, MaximumServesEveryPlan) {
    const std::vector<WorkspaceSize> sizes = {{10, 256}, {4000, 256}, {3, 1024}};
    EXPECT_EQ(max_of(sizes), (WorkspaceSize{4000, 1024}));
    EXPECT_EQ(max_of(std::span<const WorkspaceSize>{}), WorkspaceSize{});
}

}  // namespace
}  // namespace tokamak
