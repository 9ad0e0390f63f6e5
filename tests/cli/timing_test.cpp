// SPDX-License-Identifier: Apache-2.0
#include "cli/timing.h"

#include <gtest/gtest.h>

#include "cli/bench/report.h"
#include "cli/results.h"
#include "cli/shapes.h"
#include "tokamak/error.h"

namespace tokamak::cli {
namespace {

TEST(Summarize, interpolates_percentiles) {
    const Timing odd = summarize({5, 1, 4, 2, 3});
    EXPECT_DOUBLE_EQ(odd.median, 3);
    EXPECT_DOUBLE_EQ(odd.p10, 1.4);
    EXPECT_DOUBLE_EQ(odd.p90, 4.6);
    EXPECT_DOUBLE_EQ(summarize({1, 2}).median, 1.5);
    EXPECT_DOUBLE_EQ(summarize({7}).p90, 7);
    EXPECT_EQ(summarize({}).samples, 0);
}

TEST(MeasureCalls, keeps_its_limits) {
    int calls = 0;
    EXPECT_EQ(measure_calls([&] { ++calls; }, {.min_samples = 3, .max_samples = 100, .seconds = 0}).samples, 3);
    EXPECT_EQ(calls, 3);
    EXPECT_EQ(measure_calls([] {}, {.min_samples = 1, .max_samples = 7, .seconds = 60}).samples, 7);
}

TEST(Results, follow_the_schema) {
    Results results;
    results.device = "cpu";
    results.rows.push_back({});
    results.rows.back().max_error = std::numeric_limits<double>::quiet_NaN();
    const auto document = to_json(results);
    for (const char* key : {"tokamak", "commit", "device", "ceilings", "rows"})
        EXPECT_TRUE(document.contains(key)) << key;
    for (const char* key : {"op", "shape", "format", "tokens", "routing", "mode", "variant", "us_median", "us_p10",
                            "us_p90", "bytes", "flops", "ceiling_share", "max_error"})
        EXPECT_TRUE(document["rows"][0].contains(key)) << key;
    EXPECT_TRUE(document["rows"][0]["ceiling_share"].is_null());
    EXPECT_TRUE(document["rows"][0]["max_error"].is_null());
    EXPECT_EQ(document["ceilings"]["source"], "not measured");
}

TEST(Distance, measures_the_error_against_the_reference) {
    const std::vector<double> want = {3, 4};
    const std::vector<float> got = {3, 4.5F, 99};
    const Tensor reference(want.data(), DType::f64, {2});
    const bench::Distance error = bench::distance(Tensor(got.data(), DType::f32, {3}), reference);
    EXPECT_DOUBLE_EQ(error.norm, 0.1);
    EXPECT_DOUBLE_EQ(error.largest, 0.125);
    EXPECT_TRUE(error.within({0.11, 0.13}));
    EXPECT_FALSE(error.within({0.11, 0.12}));
    EXPECT_FALSE(error.within({0.09, 0.13}));
}

TEST(Distance, what_is_not_finite_is_within_nothing) {
    const double want = 1;
    const float got = std::numeric_limits<float>::quiet_NaN();
    const bench::Distance error = bench::distance(Tensor(&got, DType::f32, {1}), Tensor(&want, DType::f64, {1}));
    EXPECT_FALSE(error.within({1e300, 1e300}));
}

TEST(Shapes, are_found_by_name_and_make_problems) {
    const MoeShape& kimi = moe_shape("kimi-k2-e48");
    const auto problem = fused_moe_problem(kimi, kimi.formats.front(), 64);
    EXPECT_EQ(problem.hidden, 7168);
    EXPECT_EQ(problem.num_experts, 48);
    EXPECT_EQ(to_string(problem.weights), "int4_g32");
    const auto attention = sparse_attention_problem(mla_shape("v4-h64"), KvFormat::fp8_584, 8);
    EXPECT_EQ(attention.pools.size(), 2U);
    EXPECT_EQ(attention.pools[1].top_k, 512);
    EXPECT_THROW(moe_shape("v4-h64"), Error);
    EXPECT_THROW(mla_shape(""), Error);
    for (const MoeShape& shape : moe_shapes()) EXPECT_FALSE(shape.formats.empty()) << shape.name;
    for (const MlaShape& shape : mla_shapes())
        for (const KvFormat format : shape.formats)
            EXPECT_TRUE(fixed_dim(format) == 0 || fixed_dim(format) == shape.dim) << shape.name;
}

}  // namespace
}  // namespace tokamak::cli
