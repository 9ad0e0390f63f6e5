// SPDX-License-Identifier: Apache-2.0
// A build without CUDA refuses every request for a device with a reason.
#include <gtest/gtest.h>

#include "cuda/ceilings/ceilings.h"
#include "tokamak/device.h"
#include "tokamak/error.h"
#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak {
namespace {

template <class Call>
std::string refusal(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        return error.what();
    }
    return "nothing was thrown";
}

TEST(BuiltWithoutCuda, ListsOnlyTheCpu) {
    EXPECT_FALSE(built_with_cuda());
    ASSERT_EQ(list_devices().size(), 1U);
    EXPECT_EQ(list_devices()[0].device, Device::cpu());
}

TEST(BuiltWithoutCuda, RefusesDeviceMemoryWithTheReason) {
    EXPECT_NE(refusal([] { (void)OwnedTensor::allocate(DType::f32, {4}, Device::cuda()); }).find("without CUDA"),
              std::string::npos);
    EXPECT_NE(refusal([] {
                  (void)OwnedWorkspace({256, 256}, Device::cuda());
              }).find("without CUDA"),
              std::string::npos);
    EXPECT_NE(refusal([] { (void)device_info(Device::cuda(3)); }).find("cuda:3"), std::string::npos);
    EXPECT_NE(refusal([] { (void)ceilings::measure({}); }).find("without CUDA"), std::string::npos);
}

}  // namespace
}  // namespace tokamak
