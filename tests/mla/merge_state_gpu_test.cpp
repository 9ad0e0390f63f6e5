// SPDX-License-Identifier: Apache-2.0
// merge_state on the GPU against the CPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "mla/attention_data.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"
#include "tokamak/mla.h"

namespace tokamak::test {
namespace {

/// Two partial attentions of six tokens and six heads: every pair of statistics that there is to tell apart. What an
/// empty side holds is NaN.
struct Partials {
    Partials(DType type, std::int64_t dim, std::mt19937& random)
        : a(type, {6, 6, dim}), b(type, {6, 6, dim}), lse_a(DType::f32, {6, 6}), lse_b(DType::f32, {6, 6}) {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
        constexpr float kLse[] = {-kInfinity, kInfinity, kNan, -3.5F, 0.25F, 4.0F};
        for (Argument* side : {&a, &b}) fill_uniform(side->host(), random, -1, 1);
        for (std::int64_t t = 0; t < 6; ++t)
            for (std::int64_t h = 0; h < 6; ++h) {
                lse_a.at<float>(t, h) = kLse[t];
                lse_b.at<float>(t, h) = kLse[h];
                if (t == 0) set_element(a.host(), (t * 6 + h) * dim + dim / 2, naive::kNan);
                if (h == 0) set_element(b.host(), (t * 6 + h) * dim + dim - 1, naive::kNan);
            }
    }
    /// `out` and `lse` are left to the caller.
    [[nodiscard]] mla::MergeStateArgs on(Device device, const Tensor& count) {
        return {6, count, a.on(device), lse_a.on(device), b.on(device), lse_b.on(device), {}, {}};
    }
    Argument a, b, lse_a, lse_b;
};

std::vector<double> elements(const Tensor& t, std::int64_t rows) {
    std::vector<double> list;
    for (std::int64_t i = 0; i < rows * t.strides[0]; ++i) list.push_back(naive::element(t, i));
    return list;
}

void expect_merged_as_on_the_cpu(DType type, std::int64_t dim, std::int32_t live, std::mt19937& random) {
    SCOPED_TRACE(fmt::format("{} {} {}", to_string(type), dim, live));
    const mla::MergeStateProblem problem = {6, 6, dim, type};
    Partials partials(type, dim, random);
    Argument count(DType::i32, {1});
    count.at<std::int32_t>(0) = live;
    Argument out[2] = {Argument(type, {8, 6, dim}), Argument(type, {8, 6, dim})};
    Argument lse[2] = {Argument(DType::f32, {8, 6}), Argument(DType::f32, {8, 6})};
    for (const Device device : {Device::cpu(), Device::cuda()}) {
        const int i = device.is_cuda() ? 1 : 0;
        mla::MergeStateArgs args = partials.on(device, count.on(device));
        args.out = out[i].on(device);
        args.lse = lse[i].on(device);
        mla::merge_state(problem, args, device);
    }
    synchronize(Device::cuda());
    const std::int64_t rows = std::clamp(live, 0, 6);
    const Tolerance of_out = Tolerance{1e-6, 1e-6} + rounding(type) + rounding(type);
    for (Argument* result : {&out[1], &lse[1]}) {
        result->fetch();
        result->expect_untouched_past(rows);
    }
    expect_close(out[1].host(), elements(out[0].host(), rows), of_out, "out");
    expect_close(lse[1].host(), elements(lse[0].host(), rows), {1e-6, 1e-6}, "lse");
    // Over an input.
    mla::MergeStateArgs args = partials.on(Device::cuda(), count.on(Device::cuda()));
    args.out = args.out_b;
    args.lse = args.lse_a;
    mla::merge_state(problem, args, Device::cuda());
    synchronize(Device::cuda());
    partials.b.fetch();
    partials.lse_a.fetch();
    expect_close(partials.b.host(), elements(out[0].host(), rows), of_out, "out over out_b");
    expect_close(partials.lse_a.host(), elements(lse[0].host(), rows), {1e-6, 1e-6}, "lse over lse_a");
}

TEST(MergeStateGpu, AsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    for (const DType type : {DType::bf16, DType::f16, DType::f32})
        for (const std::int64_t dim : {37, 512})
            for (const std::int32_t live : {6, 3, -1, 100}) expect_merged_as_on_the_cpu(type, dim, live, random);
}

}  // namespace
}  // namespace tokamak::test
