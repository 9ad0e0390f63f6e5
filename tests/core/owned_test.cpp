// SPDX-License-Identifier: Apache-2.0
// Memory that the library owns: tensors, workspaces, copies and fills.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "support/expect_error.h"
#include "tokamak/device.h"
#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak {
namespace {

using test::expect_error;

bool aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 256 == 0; }

static_assert(!std::is_copy_constructible_v<OwnedTensor> && !std::is_copy_assignable_v<OwnedTensor>);
static_assert(std::is_nothrow_move_constructible_v<OwnedTensor> && std::is_nothrow_move_assignable_v<OwnedTensor>);
static_assert(!std::is_copy_constructible_v<OwnedWorkspace> && !std::is_copy_assignable_v<OwnedWorkspace>);
static_assert(std::is_nothrow_move_constructible_v<OwnedWorkspace>);

TEST(OwnedTensor, AllocatesAlignedContiguousMemory) {
    for (const std::int64_t rows : {0, 1, 3, 1000}) {
        const OwnedTensor t = OwnedTensor::allocate(DType::bf16, {rows, 33});
        EXPECT_TRUE(t.owns());
        EXPECT_TRUE(t.view().present);
        EXPECT_NE(t.view().data, nullptr);
        EXPECT_TRUE(aligned(t.view().data));
        EXPECT_TRUE(t.view().contiguous());
        EXPECT_EQ(t.view().bytes(), static_cast<std::size_t>(rows) * 66);
        std::memset(t.as<void>(), 0x5A, t.view().bytes());  // all of it is ours
    }
}

TEST(OwnedTensor, MovingLeavesAnAbsentTensorBehind) {
    OwnedTensor a = OwnedTensor::allocate(DType::f32, {4});
    const void* data = a.view().data;
    OwnedTensor b = std::move(a);
    EXPECT_EQ(b.view().data, data);
    EXPECT_FALSE(a.view().present);  // NOLINT(bugprone-use-after-move): this is what is tested
    EXPECT_FALSE(a.owns());
    OwnedTensor c;
    c = std::move(b);
    EXPECT_EQ(c.view().data, data);
    EXPECT_FALSE(b.view().present);  // NOLINT(bugprone-use-after-move)
    EXPECT_TRUE(c.owns());
}

TEST(OwnedTensor, BorrowingOwnsNothing) {
    std::array<float, 4> memory{};
    const OwnedTensor t = OwnedTensor::borrow(Tensor(memory.data(), DType::f32, {4}));
    EXPECT_FALSE(t.owns());
    EXPECT_EQ(t.view().data, memory.data());
}

TEST(OwnedTensor, CopyIsEqualAndApart) {
    std::vector<std::int32_t> values = {5, -6, 7, 8, 9, 10};
    const Tensor source(values.data(), DType::i32, {2, 3});
    const OwnedTensor copy = OwnedTensor::copy_of(source);
    EXPECT_EQ(to_string(copy.view()), "i32[2, 3]");
    EXPECT_NE(copy.view().data, source.data);
    EXPECT_EQ(std::memcmp(copy.as<void>(), values.data(), 24), 0);
    values[0] = 0;
    EXPECT_EQ(copy.as<std::int32_t>()[0], 5);
}

TEST(OwnedTensor, CopyOfNothingIsNothing) {
    EXPECT_FALSE(OwnedTensor::copy_of(Tensor()).view().present);
    EXPECT_EQ(OwnedTensor::copy_of(Tensor(nullptr, DType::f32, {3, 0})).view().elements(), 0);
}

TEST(OwnedTensor, MisuseIsRefused) {
    std::array<float, 8> memory{};
    const std::vector<std::int64_t> shape = {2, 2};
    const std::vector<std::int64_t> strides = {4, 1};
    const Tensor strided = Tensor::strided(memory.data(), DType::f32, shape, strides);
    expect_error([&] { (void)OwnedTensor::copy_of(strided); }, "expected a contiguous tensor");
    expect_error([] { (void)OwnedTensor::copy_of(Tensor(nullptr, DType::f32, {2})); }, "null data");
    expect_error([] { (void)OwnedTensor::allocate(DType::f32, {-1}); }, "a dimension is -1");
    expect_error([] { (void)OwnedTensor::allocate(DType::u8, {std::int64_t{1} << 62}); }, ErrorCode::out_of_memory,
                 {"could not allocate"});
}

TEST(OwnedTensor, AbsentDeviceIsRefusedWithACode) {
    if (list_devices().size() > 1) GTEST_SKIP() << "there is a device here";
    EXPECT_THROW((void)OwnedTensor::allocate(DType::f32, {4}, Device::cuda()), Error);
}

TEST(OwnedWorkspace, GivesWhatAPlanAsksFor) {
    for (const std::size_t bytes : {0U, 1U, 255U, 256U, 100000U}) {
        const OwnedWorkspace owned({bytes, 256}, Device::cpu());
        const Workspace view = owned;
        EXPECT_EQ(view.bytes, bytes);
        EXPECT_TRUE(aligned(view.data));
        std::memset(view.data, 0xFF, bytes);
    }
    OwnedWorkspace a({512, 256}, Device::cpu(), Stream{});
    const OwnedWorkspace b = std::move(a);
    EXPECT_EQ(b.view().bytes, 512U);
    EXPECT_EQ(a.view().data, nullptr);  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(a.view().bytes, 0U);
    expect_error(
        [] {
            OwnedWorkspace({std::size_t{1} << 62, 256}, Device::cpu());
        },
        ErrorCode::out_of_memory, {"could not allocate"});
    expect_error(
        [] {
            OwnedWorkspace({~std::size_t{0}, 256}, Device::cpu());
        },
        ErrorCode::out_of_memory, {"could not allocate"});
}

TEST(Device, NamesAndFacts) {
    EXPECT_EQ(to_string(Device::cpu()), "cpu");
    EXPECT_EQ(to_string(Device::cuda(2)), "cuda:2");
    const auto devices = list_devices();
    ASSERT_FALSE(devices.empty());
    EXPECT_EQ(devices[0].device, Device::cpu());
    const DeviceInfo& cpu = device_info(Device::cpu());
    EXPECT_EQ(cpu.name, "cpu");
    EXPECT_GE(cpu.multiprocessors, 1);
    EXPECT_GT(cpu.memory_bytes, std::size_t{1} << 20);
    EXPECT_EQ(&cpu, &device_info(Device::cpu()));
    expect_error([] { (void)device_info(Device::cuda(4096)); }, ErrorCode::unsupported,
                 {"cuda:4096", "does not exist"});
    expect_error([] { (void)device_info(Device::cuda(-1)); }, ErrorCode::unsupported, {"does not exist"});
}

TEST(CopyAndFill, MoveBytesAndRefuseNull) {
    std::array<std::uint8_t, 8> from = {1, 2, 3, 4, 5, 6, 7, 8};
    std::array<std::uint8_t, 8> to{};
    copy_bytes(to.data(), Device::cpu(), from.data(), Device::cpu(), 5);
    EXPECT_EQ(to, (std::array<std::uint8_t, 8>{1, 2, 3, 4, 5, 0, 0, 0}));
    fill_bytes(to.data() + 1, Device::cpu(), 0xAB, 2);
    EXPECT_EQ(to, (std::array<std::uint8_t, 8>{1, 0xAB, 0xAB, 4, 5, 0, 0, 0}));
    EXPECT_NO_THROW(copy_bytes(nullptr, Device::cpu(), nullptr, Device::cpu(), 0));
    EXPECT_NO_THROW(fill_bytes(nullptr, Device::cpu(), 0, 0));
    expect_error([&] { copy_bytes(nullptr, Device::cpu(), from.data(), Device::cpu(), 8); }, "`destination` is null");
    expect_error([&] { copy_bytes(to.data(), Device::cpu(), nullptr, Device::cpu(), 8); }, "`source` is null");
    expect_error([] { fill_bytes(nullptr, Device::cpu(), 0, 3); }, "`destination` is null, expected 3 bytes");
    EXPECT_NO_THROW(synchronize(Device::cpu()));
}

}  // namespace
}  // namespace tokamak
