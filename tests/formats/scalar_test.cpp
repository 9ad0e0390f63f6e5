// SPDX-License-Identifier: Apache-2.0
// Scalar codecs: every code against a formula in double, encoders against a search for the nearest value.
#include "formats/scalar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tokamak::scalar {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

/// A small float type: sign, `exponent_bits`, `mantissa_bits`, IEEE bias. Codes at or above `first_special` (sign
/// removed) are not finite numbers.
struct Type {
    int exponent_bits;
    int mantissa_bits;
    std::uint32_t first_special;
    bool has_infinity;

    [[nodiscard]] std::uint32_t sign_bit() const { return 1U << (exponent_bits + mantissa_bits); }

    [[nodiscard]] double finite(std::uint32_t magnitude) const {
        const int bias = (1 << (exponent_bits - 1)) - 1;
        const int exponent = static_cast<int>(magnitude >> mantissa_bits);
        const std::uint32_t mantissa = magnitude & ((1U << mantissa_bits) - 1U);
        if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits);
        return std::ldexp(mantissa + (1U << mantissa_bits), exponent - bias - mantissa_bits);
    }

    /// Nearest code by binary search, ties to the even code; beyond the range infinity or the largest value.
    [[nodiscard]] std::uint32_t nearest(float value) const {
        const std::uint32_t sign = std::signbit(value) ? sign_bit() : 0;
        const double magnitude = std::fabs(static_cast<double>(value));
        // With an infinity, its code takes part as the value that the pattern would have were it finite.
        const std::uint32_t last = has_infinity ? first_special : first_special - 1;
        if (magnitude >= finite(last)) return sign | last;
        std::uint32_t low = 0, high = last;  // finite(low) <= magnitude < finite(high)
        while (high - low > 1) {
            const std::uint32_t middle = (low + high) / 2;
            (finite(middle) <= magnitude ? low : high) = middle;
        }
        const double below = magnitude - finite(low), above = finite(high) - magnitude;
        if (below == above) return sign | (low % 2 == 0 ? low : high);
        return sign | (below < above ? low : high);
    }
};

constexpr Type kBf16{8, 7, 0x7F80, true};
constexpr Type kF16{5, 10, 0x7C00, true};
constexpr Type kE4m3{4, 3, 0x7F, false};
constexpr Type kE2m1{2, 1, 8, false};

/// Every finite code decodes to the formula, sign included, and encodes back to itself.
template <class Decode, class Encode>
void check_codes(const Type& type, Decode decode, Encode encode) {
    for (std::uint32_t code = 0; code < 2 * type.sign_bit(); ++code) {
        const std::uint32_t magnitude = code & (type.sign_bit() - 1U);
        if (magnitude >= type.first_special) continue;
        const float value = decode(code);
        ASSERT_EQ(std::fabs(static_cast<double>(value)), type.finite(magnitude)) << code;
        ASSERT_EQ(std::signbit(value), (code & type.sign_bit()) != 0) << code;
        ASSERT_EQ(encode(value), code);
    }
}

/// Midpoints of neighbours and the floats next to them, then floats of every exponent with mantissas that matter.
template <class Encode>
void check_rounding(const Type& type, Encode encode) {
    const auto check = [&](float value) {
        for (const float signed_value : {value, -value})
            ASSERT_EQ(encode(signed_value), type.nearest(signed_value)) << std::hexfloat << signed_value;
    };
    for (std::uint32_t code = 0; code + 1 < type.first_special; ++code) {
        const auto middle = static_cast<float>((type.finite(code) + type.finite(code + 1)) / 2);
        for (const float value : {std::nextafter(middle, 0.0F), middle, std::nextafter(middle, HUGE_VALF)})
            check(value);
        if (testing::Test::HasFatalFailure()) return;
    }
    std::mt19937 random(std::random_device{}());
    for (std::uint32_t high = 0; high <= 0x7F7F; ++high)
        for (const std::uint32_t low :
             {0U, 1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU, std::uint32_t(random() & 0xFFFFU)}) {
            check(std::bit_cast<float>(high << 16 | low));
            if (testing::Test::HasFatalFailure()) return;
        }
    check(HUGE_VALF);
}

TEST(Scalar, Bf16) {
    const auto decode = [](std::uint32_t code) { return bf16_to_float(static_cast<std::uint16_t>(code)); };
    check_codes(kBf16, decode, float_to_bf16);
    check_rounding(kBf16, float_to_bf16);
    EXPECT_EQ(round_to_bf16(1.00390625F), 1.0F);       // tie, down to even
    EXPECT_EQ(round_to_bf16(1.01171875F), 1.015625F);  // tie, up to even
}

TEST(Scalar, F16) {
    const auto decode = [](std::uint32_t code) { return f16_to_float(static_cast<std::uint16_t>(code)); };
    check_codes(kF16, decode, float_to_f16);
    check_rounding(kF16, float_to_f16);
    EXPECT_EQ(float_to_f16(65519.996F), 0x7BFF);
    EXPECT_EQ(float_to_f16(65520.0F), 0x7C00);
}

/// Infinities and NaNs of the 16-bit types survive both ways; a NaN becomes quiet and keeps sign and upper payload.
template <class Decode, class Encode>
void check_specials(const Type& type, Decode decode, Encode encode) {
    for (std::uint32_t code = 0; code < 0x10000U; ++code) {
        const std::uint32_t magnitude = code & 0x7FFFU;
        if (magnitude < type.first_special) continue;
        const float value = decode(static_cast<std::uint16_t>(code));
        ASSERT_EQ(std::signbit(value), code >= 0x8000U) << code;
        ASSERT_EQ(std::isinf(value), magnitude == type.first_special) << code;
        ASSERT_EQ(std::isnan(value), magnitude != type.first_special) << code;
        const std::uint32_t quiet = magnitude == type.first_special ? 0U : 1U << (type.mantissa_bits - 1);
        ASSERT_EQ(encode(value), code | quiet);
    }
}

TEST(Scalar, SixteenBitSpecials) {
    check_specials(kBf16, bf16_to_float, float_to_bf16);
    check_specials(kF16, f16_to_float, float_to_f16);
    // A NaN whose payload lies below the kept bits must not turn into an infinity.
    for (const std::uint32_t bits : {0x7F800001U, 0xFF800001U, 0x7FC00000U, 0xFFFFFFFFU}) {
        const auto nan = std::bit_cast<float>(bits);
        EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan))));
        EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(nan))));
        EXPECT_TRUE(std::isnan(e4m3_to_float(float_to_e4m3(nan))));
        EXPECT_EQ(std::signbit(f16_to_float(float_to_f16(nan))), bits >> 31 != 0);
    }
}

TEST(Scalar, E4m3) {
    const auto decode = [](std::uint32_t code) { return e4m3_to_float(static_cast<std::uint8_t>(code)); };
    check_codes(kE4m3, decode, float_to_e4m3);
    check_rounding(kE4m3, float_to_e4m3);
    for (const std::uint8_t code : {std::uint8_t{0x7F}, std::uint8_t{0xFF}}) {
        EXPECT_TRUE(std::isnan(e4m3_to_float(code)));
        EXPECT_EQ(std::signbit(e4m3_to_float(code)), code == 0xFF);
        EXPECT_EQ(float_to_e4m3(e4m3_to_float(code)), code);
    }
    EXPECT_EQ(float_to_e4m3(HUGE_VALF), 0x7E);
    EXPECT_EQ(float_to_e4m3(-1e30F), 0xFE);
    EXPECT_EQ(e4m3_to_float(0x7E), 448.0F);
    EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9F);
}

TEST(Scalar, E2m1) {
    const auto decode = [](std::uint32_t code) { return e2m1_to_float(static_cast<std::uint8_t>(code)); };
    check_codes(kE2m1, decode, float_to_e2m1);
    check_rounding(kE2m1, float_to_e2m1);
    EXPECT_EQ(float_to_e2m1(HUGE_VALF), 7);
    EXPECT_EQ(float_to_e2m1(std::numeric_limits<float>::quiet_NaN()) & 7, 0);
    for (std::uint32_t code = 16; code < 256; ++code)  // the high nibble of a byte is another code
        EXPECT_EQ(decode(code), decode(code & 15U));
}

TEST(Scalar, E8m0AndItsThreeReadings) {
    for (int code = 0; code < 255; ++code) {
        const auto byte = static_cast<std::uint8_t>(code);
        const double expected = std::ldexp(1.0, code - 127);
        EXPECT_EQ(static_cast<double>(e8m0_to_float(byte)), expected);
        EXPECT_EQ(static_cast<double>(mxfp4_scale_to_float(byte)), expected);
        EXPECT_EQ(static_cast<double>(kv_scale_to_float(byte)), expected);
    }
    EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
    EXPECT_EQ(mxfp4_scale_to_float(255), 0.0F);
    EXPECT_EQ(kv_scale_to_float(255), kInf);
}

TEST(Scalar, Int4IsOffsetBinary) {
    for (int code = 0; code < 16; ++code) {
        EXPECT_EQ(int4_to_float(static_cast<std::uint8_t>(code)), static_cast<float>(code - 8));
        EXPECT_EQ(int4_to_float(static_cast<std::uint8_t>(code | 0xF0)), static_cast<float>(code - 8));
    }
}

}  // namespace
}  // namespace tokamak::scalar
