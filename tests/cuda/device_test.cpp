// SPDX-License-Identifier: Apache-2.0
// Device tensors, workspaces, streams and captured graphs.
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "cuda/check.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "tokamak/error.h"
#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak {
namespace {

TEST(CudaDevice, InfoNamesTheDevice) {
    TOKAMAK_REQUIRE_GPU();
    const DeviceInfo& info = device_info(Device::cuda());
    EXPECT_FALSE(info.name.empty());
    EXPECT_GT(info.multiprocessors, 0);
    EXPECT_GT(info.shared_memory_bytes, std::size_t{48 * 1024});
    EXPECT_GT(info.memory_bytes, std::size_t{1} << 30);
}

TEST(CudaDevice, UnknownIndexIsRefused) {
    TOKAMAK_REQUIRE_GPU();
    EXPECT_THROW((void)device_info(Device::cuda(4096)), Error);
}

TEST(CudaDevice, CopiesThereAndBack) {
    TOKAMAK_REQUIRE_GPU();
    std::vector<std::int32_t> values(100'003);
    std::iota(values.begin(), values.end(), -7);
    const Tensor host(values.data(), DType::i32, {static_cast<std::int64_t>(values.size())});
    const OwnedTensor device = OwnedTensor::copy_of(host, Device::cuda());
    const OwnedTensor back = OwnedTensor::copy_of(device, Device::cpu());
    EXPECT_TRUE(std::equal(values.begin(), values.end(), back.as<std::int32_t>()));
}

TEST(CudaDevice, StreamOrderedWorkspaceMayBeLetGoWhileWorkIsPending) {
    TOKAMAK_REQUIRE_GPU();
    const cuda::OwnedStream stream;
    const OwnedTensor target = OwnedTensor::allocate(DType::u8, {1 << 20}, Device::cuda());
    for (int round = 0; round < 20; ++round) {
        const OwnedWorkspace workspace({1 << 20, 256}, Device::cuda(), stream.stream());
        fill_bytes(workspace.view().data, Device::cuda(), static_cast<std::uint8_t>(round + 1), 1 << 20,
                   stream.stream());
        copy_bytes(target.view().data, Device::cuda(), workspace.view().data, Device::cuda(), 1 << 20, stream.stream());
    }
    synchronize(Device::cuda(), stream.stream());
    const OwnedTensor back = OwnedTensor::copy_of(target);
    for (const int i : {0, 12345, (1 << 20) - 1}) EXPECT_EQ(back.as<std::uint8_t>()[i], 20);
}

TEST(CudaDevice, TooLargeAnAllocationIsOutOfMemory) {
    TOKAMAK_REQUIRE_GPU();
    try {
        (void)OwnedTensor::allocate(DType::u8, {std::int64_t{1} << 50}, Device::cuda());
        FAIL() << "a petabyte was allocated";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    }
    // The failed call must not surface in the next one.
    EXPECT_NO_THROW((void)OwnedTensor::allocate(DType::u8, {16}, Device::cuda()));
}

TEST(CudaGraph, ReplaysWithChangedData) {
    TOKAMAK_REQUIRE_GPU();
    const cuda::OwnedStream stream;
    const OwnedTensor source = OwnedTensor::allocate(DType::u8, {4096}, Device::cuda());
    const OwnedTensor target = OwnedTensor::allocate(DType::u8, {4096}, Device::cuda());
    const cuda::CapturedGraph graph(stream, [&] {
        copy_bytes(target.view().data, Device::cuda(), source.view().data, Device::cuda(), 4096, stream.stream());
    });
    EXPECT_EQ(graph.nodes(), 1U);
    for (const std::uint8_t value : {17, 250}) {
        fill_bytes(source.view().data, Device::cuda(), value, 4096, stream.stream());
        graph.replay();
        synchronize(Device::cuda(), stream.stream());
        EXPECT_EQ(OwnedTensor::copy_of(target).as<std::uint8_t>()[4095], value);
    }
}

TEST(CudaGraph, ExceptionEndsTheCapture) {
    TOKAMAK_REQUIRE_GPU();
    const cuda::OwnedStream stream;
    EXPECT_THROW(cuda::CapturedGraph(stream, [] { throw Error(ErrorCode::internal, "inside"); }), Error);
    const OwnedTensor target = OwnedTensor::allocate(DType::u8, {16}, Device::cuda());
    fill_bytes(target.view().data, Device::cuda(), 3, 16, stream.stream());
    EXPECT_NO_THROW(synchronize(Device::cuda(), stream.stream()));
}

}  // namespace
}  // namespace tokamak
