// SPDX-License-Identifier: Apache-2.0
// A short measurement gives plausible, ordered figures; no figure is asserted closer than a factor.
#include "cuda/ceilings/ceilings.h"

#include <gtest/gtest.h>

#include "cuda/gpu.h"

namespace tokamak {
namespace {

TEST(Ceilings, ArePlausible) {
    TOKAMAK_REQUIRE_GPU();
    if (device_info(Device::cuda()).compute_capability != 90) GTEST_SKIP() << "not a Hopper GPU";
    const ceilings::Ceilings c = ceilings::measure({.sustained_seconds = 0.2});
    EXPECT_GT(c.read_gbps, 1000.0);
    EXPECT_GT(c.copy_gbps, 1000.0);
    EXPECT_LT(c.read_gbps, 8000.0);
    EXPECT_GT(c.bf16_tflops_burst, 200.0);
    EXPECT_GT(c.fp8_tflops_burst, c.bf16_tflops_burst);
    EXPECT_FALSE(c.matrix_source.empty());
    EXPECT_GT(c.graph_node_us, 0.1);
    EXPECT_GT(c.grid_barrier_us, 0.1);
    ASSERT_FALSE(c.read_floors.empty());
    for (std::size_t i = 1; i < c.read_floors.size(); ++i) EXPECT_GT(c.read_floors[i].us, c.read_floors[i - 1].us);
}

}  // namespace
}  // namespace tokamak
