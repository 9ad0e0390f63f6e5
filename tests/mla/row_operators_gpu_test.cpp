// SPDX-License-Identifier: Apache-2.0
// merge_state, paged_gather and write_kv on the GPU against the CPU, bit for bit where one rounding is all there is.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "formats/kv_cache_fixture.h"
#include "mla/attention_data.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"
#include "tokamak/mla.h"

namespace tokamak::test {
namespace {

constexpr KvFormat kFormats[] = {KvFormat::bf16,      KvFormat::fp8_656, KvFormat::fp8_584,
                                 KvFormat::fp8_split, KvFormat::mxfp4,   KvFormat::f32};
constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::f32};

std::int64_t some_dim(KvFormat format) { return fixed_dim(format) != 0 ? fixed_dim(format) : 160; }

TEST(PagedGatherGpu, EveryFormatAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : kFormats) {
        for (const DType type : kTypes) {
            for (const std::int64_t page : {1, 16, 53}) {
                for (const bool table : {false, true}) {
                    const std::int64_t dim = some_dim(format);
                    SCOPED_TRACE(
                        fmt::format("{} {} page {} table {}", to_string(format), to_string(type), page, table));
                    PoolData pool({.format = format,
                                   .page_size = page,
                                   .top_k = 37,
                                   .table = table,
                                   .masked = 0.3,
                                   .page_gap = page == 53 ? 8 : 0},
                                  5, dim, false, page == 53, random);
                    const std::int64_t gap = page == 16 ? 0 : 3;
                    const auto make_out = [&] {
                        return Argument(type, {7, 37, dim}, {37 * (dim + gap), dim + gap, 1});
                    };
                    Argument out[2] = {make_out(), make_out()};
                    const mla::PagedGatherProblem problem = {5, 37, format, dim, page, table, type};
                    for (const Device device : {Device::cpu(), Device::cuda()}) {
                        const mla::KvPoolArgs on = pool.on(device);
                        mla::paged_gather(
                            problem,
                            {5, {}, on.cache, on.indices, on.block_table, out[device.is_cuda() ? 1 : 0].on(device)},
                            device);
                    }
                    synchronize(Device::cuda());
                    out[1].fetch();
                    EXPECT_TRUE(out[1].bytes() == out[0].bytes());
                }
            }
        }
    }
}

TEST(WriteKvGpu, EveryFormatAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : kFormats) {
        for (const DType type : kTypes) {
            for (const KvScale scale : {KvScale::power_of_two, KvScale::exact}) {
                if (scale == KvScale::exact && format != KvFormat::fp8_656) continue;
                SCOPED_TRACE(fmt::format("{} {}", to_string(format), to_string(type)));
                const std::int64_t dim = some_dim(format);
                Argument kv(type, {40, dim}, {dim + (type == DType::f32 ? 5 : 0), 1});
                fill_uniform(kv.host(), random, -3, 3);
                Argument slots(DType::i32, {40}, {2});
                for (std::int64_t t = 0; t < 40; ++t) slots.at<std::int32_t>(t) = static_cast<std::int32_t>(t * 7 % 64);
                slots.at<std::int32_t>(3) = -1;
                slots.at<std::int32_t>(4) = 64;
                const mla::WriteKvProblem problem = {40, format, dim, 16, scale, type};
                const KvCacheShape shape = kv_cache_shape(format, dim);
                const std::int64_t width =
                    shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
                const auto make_values = [&] {
                    return format == KvFormat::fp8_584
                               ? Argument(DType::u8, {4, 16 * 584}, {16 * 584 + 8, 1})
                               : Argument(shape.values_dtype, {4, 16, width}, {16 * width + 8, width, 1});
                };
                const auto make_scales = [&] {
                    return shape.scales_row_bytes > 0 ? Argument(DType::u8, {4, 16, shape.scales_row_bytes})
                                                      : Argument();
                };
                Argument values[2] = {make_values(), make_values()};
                Argument scales[2] = {make_scales(), make_scales()};
                for (const Device device : {Device::cpu(), Device::cuda()}) {
                    const int i = device.is_cuda() ? 1 : 0;
                    const KvCache cache = {format, dim, 16, values[i].on(device), scales[i].on(device)};
                    mla::write_kv(problem, {40, {}, kv.on(device), slots.on(device), cache}, device);
                }
                synchronize(Device::cuda());
                values[1].fetch();
                scales[1].fetch();
                EXPECT_TRUE(values[1].bytes() == values[0].bytes());
                EXPECT_TRUE(scales[1].bytes() == scales[0].bytes());
            }
        }
    }
}

TEST(MergeStateGpu, AsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    for (const DType type : kTypes) {
        for (const std::int64_t dim : {37, 512}) {
            SCOPED_TRACE(fmt::format("{} {}", to_string(type), dim));
            Argument a(type, {6, 5, dim});
            Argument b(type, {6, 5, dim});
            Argument lse_a(DType::f32, {6, 5});
            Argument lse_b(DType::f32, {6, 5});
            for (Argument* side : {&a, &b}) fill_uniform(side->host(), random, -1, 1);
            for (Argument* side : {&lse_a, &lse_b}) fill_uniform(side->host(), random, -4, 4);
            lse_a.at<float>(0, 0) = lse_b.at<float>(1, 1) = lse_a.at<float>(2, 2) = lse_b.at<float>(2, 2) =
                -static_cast<float>(kInfinity);
            const mla::MergeStateProblem problem = {6, 5, dim, type};
            Argument out[2] = {Argument(type, {8, 5, dim}), Argument(type, {8, 5, dim})};
            Argument lse[2] = {Argument(DType::f32, {8, 5}), Argument(DType::f32, {8, 5})};
            for (const Device device : {Device::cpu(), Device::cuda()}) {
                const int i = device.is_cuda() ? 1 : 0;
                mla::merge_state(problem,
                                 {6,
                                  {},
                                  a.on(device),
                                  lse_a.on(device),
                                  b.on(device),
                                  lse_b.on(device),
                                  out[i].on(device),
                                  lse[i].on(device)},
                                 device);
            }
            synchronize(Device::cuda());
            for (Argument* side : {&out[1], &lse[1]}) {
                side->fetch();
                side->expect_untouched_past(6);
            }
            const auto values = [](const Tensor& t, std::int64_t rows) {
                std::vector<double> list;
                for (std::int64_t i = 0; i < rows * t.strides[0]; ++i) list.push_back(naive::element(t, i));
                return list;
            };
            expect_close(out[1].host(), values(out[0].host(), 6),
                         Tolerance{1e-6, 1e-6} + rounding(type) + rounding(type), "out");
            expect_close(lse[1].host(), values(lse[0].host(), 6), {1e-6, 1e-6}, "lse");
        }
    }
}

}  // namespace
}  // namespace tokamak::test
