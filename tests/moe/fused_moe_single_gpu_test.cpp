// SPDX-License-Identifier: Apache-2.0
// The kernel for one token, for what is special to it: how few tiles its CTAs share, routes that are not live, strips
// that many CTAs have a part of, counts on the device.
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "moe/gpu_cases.h"

namespace tokamak::moe::test {
namespace {

constexpr const char* kPrefix = "single";

class FusedMoeSingleGpu : public testing::TestWithParam<std::size_t> {
  protected:
    const Format& format = formats()[GetParam()];
    std::uint64_t purpose = 700 + 1000 * GetParam();  ///< inputs of their own for each format
};

std::string name_of(const Format& format) { return to_string(format.weights) + (format.quantized ? "_quantized" : ""); }

FusedMoeCase one_token(const Format& format, std::int64_t hidden, std::int64_t intermediate, int experts, int top_k) {
    FusedMoeCase c = gpu_case(format, 1, hidden, intermediate);
    c.problem.num_experts = c.problem.num_local_experts = experts;
    c.problem.top_k = top_k;
    c.bad_ids = 0;
    return c;
}

TEST_P(FusedMoeSingleGpu, Sizes) {
    TOKAMAK_REQUIRE_GPU();
    const std::vector<std::pair<std::int64_t, std::int64_t>> sizes = {{2880, 96}, {96, 2880}, {704, 1408}, {1408, 704},
                                                                      {33, 45},   {1, 1},     {7168, 64},  {256, 4096}};
    for (const auto& [hidden, intermediate] : sizes)
        expect_reference(one_token(format, hidden, intermediate, 2, 2), purpose++, {1}, kPrefix);
}

TEST_P(FusedMoeSingleGpu, SlotsAndMissingRoutes) {
    TOKAMAK_REQUIRE_GPU();
    for (const int top_k : {1, 8, 16, 32})
        for (const double bad : {0.0, 0.5}) {
            FusedMoeCase c = one_token(format, 384, 288, 5, top_k);
            c.problem.num_local_experts = 3;
            c.bad_ids = bad;
            c.gate_up_bias = c.down_bias = c.shared_output = bad > 0;
            expect_reference(c, purpose++, {0, 1}, kPrefix);
        }
}

/// Nothing to do but the shared output; every slot the same expert.
TEST_P(FusedMoeSingleGpu, NoRouteAndOneExpert) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = one_token(format, 384, 256, 4, 5);
    c.bad_ids = 1;
    c.shared_output = true;
    expect_reference(c, purpose++, {1}, kPrefix);
    c.shared_output = false;
    expect_reference(c, purpose++, {1}, kPrefix);
    c = one_token(format, 384, 256, 1, 9);
    expect_reference(c, purpose++, {1}, kPrefix);
}

TEST_P(FusedMoeSingleGpu, MoreTokensOneByOne) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = gpu_case(format, 5, 320, 192);
    c.shared_output = true;
    expect_reference(c, purpose++, {1, 5}, kPrefix);
}

INSTANTIATE_TEST_SUITE_P(Formats, FusedMoeSingleGpu, testing::Range(std::size_t{0}, formats().size()),
                         [](const auto& test) { return name_of(formats()[test.param]); });

}  // namespace
}  // namespace tokamak::moe::test
