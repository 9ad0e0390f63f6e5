// SPDX-License-Identifier: Apache-2.0
// A KV cache with guards around and gaps between its pages, and an encoder that searches instead of computing.
#pragma once

#include <cmath>
#include <random>

#include "mla/argument.h"
#include "mla/naive.h"
#include "tokamak/kv_format.h"

namespace tokamak::test {

struct CacheFixture {
    CacheFixture(KvFormat format, std::int64_t dim, std::int64_t pages, std::int64_t page_size, std::int64_t gap = 0)
        : format(format), dim(dim), page_size(page_size) {
        const KvCacheShape shape = kv_cache_shape(format, dim);
        const auto width = shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
        if (format == KvFormat::fp8_584)
            values = Argument(DType::u8, {pages, page_size * 584}, {page_size * 584 + gap, 1});
        else
            values = Argument(shape.values_dtype, {pages, page_size, width}, {page_size * width + gap, width, 1});
        const std::int64_t scale_width = shape.scales_row_bytes;
        if (scale_width > 0)
            scales =
                Argument(DType::u8, {pages, page_size, scale_width}, {page_size * scale_width + gap, scale_width, 1});
    }

    [[nodiscard]] KvCache cache() const { return {format, dim, page_size, values.host(), scales.host()}; }

    KvFormat format;
    std::int64_t dim;
    std::int64_t page_size;
    Argument values, scales;
};

inline constexpr KvFormat kAllKvFormats[] = {KvFormat::bf16,      KvFormat::fp8_656, KvFormat::fp8_584,
                                             KvFormat::fp8_split, KvFormat::mxfp4,   KvFormat::f32};

inline std::int64_t a_dim(KvFormat format) { return fixed_dim(format) != 0 ? fixed_dim(format) : 96; }

namespace naive {

/// The code whose value is nearest among all codes of the sign, ties to the even one.
template <class Decode>
std::uint8_t nearest(double value, std::uint8_t sign_bit, Decode decode) {
    const std::uint8_t sign = std::signbit(value) ? sign_bit : 0;
    std::uint8_t best = sign;
    for (int magnitude = 0; magnitude < sign_bit; ++magnitude) {
        const auto code = static_cast<std::uint8_t>(sign | magnitude);
        const double distance = std::fabs(decode(code) - value) - std::fabs(decode(best) - value);
        if (distance < 0 || (distance == 0 && magnitude % 2 == 0)) best = code;
    }
    return best;
}

inline double clamp_finite(double value, double largest) {
    return std::isnan(value) ? value : std::fmax(-largest, std::fmin(largest, value));
}

inline double amax(const float* values, int count) {
    double largest = 0;
    for (int i = 0; i < count; ++i)
        if (std::isfinite(values[i])) largest = std::fmax(largest, std::fabs(static_cast<double>(values[i])));
    return largest;
}

/// FlashMLA's rule for an fp8 group: amax / 448 in f32, rounded up to a power of two unless `exact`.
inline float fp8_scale(const float* values, int count, bool exact) {
    const float scale = static_cast<float>(std::fmax(amax(values, count), static_cast<double>(1e-4F))) / 448.0F;
    if (exact) return scale;
    double power = 0x1p-40;
    while (power < static_cast<double>(scale)) power *= 2;
    return static_cast<float>(power);
}

/// OCP's rule for an mxfp4 group: the power of two of amax, less that of the largest code, 4.
inline int mxfp4_exponent(const float* values, int count) {
    const double largest = amax(values, count);
    int exponent = -127;
    while (exponent < 127 && largest >= std::ldexp(1.0, exponent + 3)) ++exponent;
    return exponent;
}

}  // namespace naive
}  // namespace tokamak::test
