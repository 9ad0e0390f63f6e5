// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tokamak::cli::conformance {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(ErrorRatio, follows_the_rule) {
    const Bounds bounds{0.1, 0.01};
    EXPECT_DOUBLE_EQ(error_ratio(10.1, 10.0, bounds), (10.1 - 10.0) / 0.2);
    EXPECT_DOUBLE_EQ(error_ratio(-9.5, -10.0, bounds), 0.5 / 0.2);
    EXPECT_EQ(error_ratio(0.0, 0.0, bounds), 0);
}

TEST(ErrorRatio, without_tolerance_only_equal_values_pass) {
    EXPECT_EQ(error_ratio(3.0, 3.0, {}), 0);
    EXPECT_EQ(error_ratio(3.0, std::nextafter(3.0, 4.0), {}), kInfinity);
    EXPECT_EQ(error_ratio(1e-9, 0.0, {0, 1.0}), kInfinity);
}

TEST(ErrorRatio, an_infinity_or_nan_equals_only_itself) {
    const Bounds loose{1e30, 1e30};
    EXPECT_EQ(error_ratio(kInfinity, kInfinity, loose), 0);
    EXPECT_EQ(error_ratio(-kInfinity, -kInfinity, loose), 0);
    EXPECT_EQ(error_ratio(kNan, kNan, loose), 0);
    EXPECT_EQ(error_ratio(kInfinity, -kInfinity, loose), kInfinity);
    EXPECT_EQ(error_ratio(1.0, kInfinity, loose), kInfinity);
    EXPECT_EQ(error_ratio(kInfinity, 1.0, loose), kInfinity);
    EXPECT_EQ(error_ratio(kNan, 1.0, loose), kInfinity);
    EXPECT_EQ(error_ratio(1.0, kNan, loose), kInfinity);
    EXPECT_EQ(error_ratio(kNan, kInfinity, loose), kInfinity);
}

TEST(Compare, finds_the_worst_element_over_its_tolerance_not_the_largest_error) {
    const std::vector<float> want = {100.0F, 0.1F, -5.0F, 1.0F};
    std::vector<float> got = want;
    got[0] += 1.0F;    // 1 of 10
    got[1] += 0.005F;  // 0.005 of 0.01
    const Worst worst =
        compare(Tensor(got.data(), DType::f32, {2, 2}), Tensor(want.data(), DType::f32, {2, 2}), {0, 0.1});
    EXPECT_EQ(worst.index, 1);
    EXPECT_NEAR(worst.ratio, 0.5, 1e-3);
    EXPECT_TRUE(worst.passes());
}

TEST(Compare, reads_every_dtype_and_unaligned_memory) {
    const std::vector<unsigned char> memory = {0xEE, 0x80, 0x3F, 0x00, 0xC0};  // bf16 1 and -2, one byte off
    const Tensor numbers(memory.data() + 1, DType::bf16, {2});
    EXPECT_EQ(element(numbers, 0), 1.0);
    EXPECT_EQ(element(numbers, 1), -2.0);
    const std::int64_t wide = -7;
    EXPECT_EQ(element(Tensor(&wide, DType::i64, {1}), 0), -7.0);
    const unsigned char code = 0x38;
    EXPECT_EQ(element(Tensor(&code, DType::e4m3, {1}), 0), 1.0);
    EXPECT_EQ(element(Tensor(&code, DType::u8, {1}), 0), 56.0);
}

TEST(Compare, only_flagged_rows_may_hold_0_or_minus_infinity) {
    const std::vector<float> want = {0.0F, 0.0F, 2.0F, 3.0F};
    const std::vector<float> got = {-INFINITY, 0.0F, 2.0F, 3.0F};
    const Tensor g(got.data(), DType::f32, {2, 2});
    const Tensor w(want.data(), DType::f32, {2, 2});
    EXPECT_FALSE(compare(g, w, {0.1, 0.1}).passes());
    EXPECT_TRUE(compare(g, w, {0.1, 0.1}, {true, false}).passes());
    EXPECT_FALSE(compare(g, w, {0.1, 0.1}, {false, true}).passes());
    EXPECT_FALSE(
        compare(w, Tensor(std::vector<float>{1, 1, 1, 1}.data(), DType::f32, {2, 2}), {}, {true, false}).passes());
}

TEST(Compare, nothing_to_compare_passes) {
    const Worst worst = compare(Tensor(nullptr, DType::f32, {0, 4}), Tensor(nullptr, DType::f32, {0, 4}), {});
    EXPECT_EQ(worst.index, -1);
    EXPECT_TRUE(worst.passes());
}

TEST(IndexText, unravels) {
    const std::vector<std::int64_t> shape = {2, 3, 4};
    EXPECT_EQ(index_text(shape, 0), "[0, 0, 0]");
    EXPECT_EQ(index_text(shape, 23), "[1, 2, 3]");
    EXPECT_EQ(index_text({}, 0), "[]");
}

}  // namespace
}  // namespace tokamak::cli::conformance
