// SPDX-License-Identifier: Apache-2.0
// Number formats from first principles, in double and independent of the library, for the references of the tests.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tokamak/kv_format.h"
#include "tokamak/tensor.h"

namespace tokamak::test::naive {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A binary float of the given widths; the largest exponent is infinity or NaN as IEEE has it.
inline double ieee(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
    const std::uint32_t mantissa = bits & ((1U << mantissa_bits) - 1);
    const std::uint32_t exponent = (bits >> mantissa_bits) & ((1U << exponent_bits) - 1);
    const double sign = (bits >> (mantissa_bits + exponent_bits)) & 1U ? -1.0 : 1.0;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    if (exponent == (1U << exponent_bits) - 1) return mantissa != 0 ? kNan : sign * kInfinity;
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1U << mantissa_bits) + mantissa, static_cast<int>(exponent) - bias - mantissa_bits);
}

inline double bf16(std::uint16_t bits) { return ieee(bits, 8, 7); }
inline double f16(std::uint16_t bits) { return ieee(bits, 5, 10); }

inline double e4m3(std::uint8_t code) {
    const int exponent = (code >> 3) & 15;
    const int mantissa = code & 7;
    const double sign = (code & 0x80) != 0 ? -1.0 : 1.0;
    if (exponent == 15 && mantissa == 7) return kNan;
    return sign * (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

inline double e2m1(std::uint8_t code) {
    static constexpr double values[16] = {0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
                                          -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0};
    return values[code & 15];
}

template <class T>
T read(const void* base, std::int64_t byte) {
    T value;
    std::memcpy(&value, static_cast<const std::byte*>(base) + byte, sizeof(T));
    return value;
}

/// Element `index` (in elements from `data`) of a bf16, f16, f32 or f64 tensor.
inline double element(const Tensor& tensor, std::int64_t index) {
    switch (tensor.dtype) {
        case DType::bf16: return bf16(read<std::uint16_t>(tensor.data, index * 2));
        case DType::f16: return f16(read<std::uint16_t>(tensor.data, index * 2));
        case DType::f64: return read<double>(tensor.data, index * 8);
        default: return static_cast<double>(read<float>(tensor.data, index * 4));
    }
}

/// f32 has no value beyond its largest: an exact product there counts as infinite.
inline double as_f32(double value) { return static_cast<double>(static_cast<float>(value)); }

/// A decoded row by the text of docs/formats.md.
inline std::vector<double> kv_row(const KvCache& cache, std::int64_t page, std::int64_t row) {
    std::vector<double> out(static_cast<std::size_t>(cache.dim));
    const auto element_bytes = static_cast<std::int64_t>(size_of(cache.values.dtype));
    const std::int64_t page_byte = page * cache.values.strides[0] * element_bytes;
    const auto byte = [&](std::int64_t at) { return read<std::uint8_t>(cache.values.data, page_byte + at); };
    const auto half = [&](std::int64_t at) { return bf16(read<std::uint16_t>(cache.values.data, page_byte + at)); };
    const bool footer = cache.format == KvFormat::fp8_584;
    const Tensor& scale_tensor = footer ? cache.values : cache.scales;
    const auto scale_byte = [&](std::int64_t at) {
        const std::int64_t begin = footer ? cache.page_size * 576 : 0;
        return int{read<std::uint8_t>(scale_tensor.data, page * scale_tensor.strides[0] + begin + at)};
    };
    for (std::int64_t d = 0; d < cache.dim; ++d) {
        double& value = out[static_cast<std::size_t>(d)];
        switch (cache.format) {
            case KvFormat::bf16: value = half((row * cache.dim + d) * 2); break;
            case KvFormat::f32:
                value = static_cast<double>(read<float>(cache.values.data, page_byte + (row * cache.dim + d) * 4));
                break;
            case KvFormat::fp8_656:
                value = d >= 512 ? half(row * 656 + 528 + (d - 512) * 2)
                                 : e4m3(byte(row * 656 + d)) *
                                       static_cast<double>(
                                           read<float>(cache.values.data, page_byte + row * 656 + 512 + d / 128 * 4));
                break;
            case KvFormat::fp8_584:
            case KvFormat::fp8_split:
                value = d >= 448 ? half(row * 576 + 448 + (d - 448) * 2)
                                 : as_f32(e4m3(byte(row * 576 + d)) *
                                          as_f32(std::ldexp(1.0, scale_byte(row * 8 + d / 64) - 127)));
                break;
            case KvFormat::mxfp4: {
                const int scale = scale_byte(row * (cache.dim / 32) + d / 32);
                const std::uint8_t pair = byte(row * (cache.dim / 2) + d / 2);
                const double multiplier = scale == 255 ? 0.0 : std::ldexp(1.0, scale - 127);
                value = as_f32(e2m1(d % 2 == 0 ? pair & 15 : pair >> 4) * multiplier);
                break;
            }
        }
    }
    return out;
}

}  // namespace tokamak::test::naive
