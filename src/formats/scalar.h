// SPDX-License-Identifier: Apache-2.0
// Scalar codecs on the host: the reference for every 16-, 8- and 4-bit type. Conversions to a narrower type round to
// nearest, ties to even.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tokamak::scalar {

inline float bf16_to_float(std::uint16_t bits) noexcept { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline std::uint16_t float_to_bf16(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);  // quiet NaN
    return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float round_to_bf16(float value) noexcept { return bf16_to_float(float_to_bf16(value)); }

inline float f16_to_float(std::uint16_t bits) noexcept {
    const std::uint32_t sign = (std::uint32_t{bits} & 0x8000U) << 16;
    const std::uint32_t magnitude = bits & 0x7FFFU;
    if (magnitude >= 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U | ((magnitude & 0x3FFU) << 13));
    // Scaling by 2^112 rebases the exponent and turns f16 subnormals into exact floats.
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

inline std::uint16_t float_to_f16(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
    if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds to 65536 or more
    if (magnitude < 0x38800000U) {
        // Below 2^-14: adding 0.5 leaves the f16 subnormal, correctly rounded, in the low mantissa bits.
        const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
    }
    const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

/// OCP fp8 E4M3: bias 7, no infinity, 0x7F and 0xFF are NaN, largest finite 448.
inline float e4m3_to_float(std::uint8_t code) noexcept {
    const std::uint32_t sign = (std::uint32_t{code} & 0x80U) << 24;
    const std::uint32_t magnitude = code & 0x7FU;
    if (magnitude == 0x7FU) return std::bit_cast<float>(sign | 0x7FC00000U);
    const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

/// Saturates beyond 448 (infinities too); NaN stays NaN.
inline std::uint8_t float_to_e4m3(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80U);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return static_cast<std::uint8_t>(sign | 0x7FU);
    if (magnitude >= 0x43E00000U) return static_cast<std::uint8_t>(sign | 0x7EU);  // 448 and above
    if (magnitude < 0x3C800000U) {
        // Below 2^-6: subnormals are multiples of 2^-9; adding 2^14 rounds to that step in the low mantissa bits.
        const float shifted = std::bit_cast<float>(magnitude) + 16384.0F;
        return static_cast<std::uint8_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x46800000U));
    }
    const std::uint32_t rounded = magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U);
    return static_cast<std::uint8_t>(sign | ((rounded - 0x3C000000U) >> 20));
}

/// OCP E8M0 by the standard: 2^(code - 127), 0xFF is NaN. Exact: 2^-127 is a float subnormal.
inline float e8m0_to_float(std::uint8_t code) noexcept {
    if (code == 0xFFU) return std::numeric_limits<float>::quiet_NaN();
    return code == 0 ? 0x1p-127F : std::bit_cast<float>(std::uint32_t{code} << 23);
}

/// Scale of an MXFP4 weight group: as E8M0, but 0xFF means "this group is zero", as the checkpoints' reference decoders
/// have it.
inline float mxfp4_scale_to_float(std::uint8_t code) noexcept { return code == 0xFFU ? 0.0F : e8m0_to_float(code); }

/// Scale of an fp8 KV row: 2^(code - 127) with 0xFF = 2^128 = infinity in f32.
inline float kv_scale_to_float(std::uint8_t code) noexcept {
    return code == 0xFFU ? std::numeric_limits<float>::infinity() : e8m0_to_float(code);
}

/// OCP E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 by the low three bits, bit 3 is the sign.
inline float e2m1_to_float(std::uint8_t code) noexcept {
    constexpr std::array<float, 8> magnitudes = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
    const float magnitude = magnitudes[code & 7U];
    return (code & 8U) != 0 ? -magnitude : magnitude;
}

/// Saturates beyond 6; ties to the even code. NaN becomes 0 with its sign (E2M1 has no NaN).
inline std::uint8_t float_to_e2m1(float value) noexcept {
    const std::uint8_t sign = std::signbit(value) ? 8 : 0;
    const float magnitude = std::fabs(value);
    std::uint8_t code = 0;
    // Upper bounds of codes 0..6; a tie goes to the even neighbour.
    if (magnitude > 0.25F) code = 1;
    if (magnitude >= 0.75F) code = 2;
    if (magnitude > 1.25F) code = 3;
    if (magnitude >= 1.75F) code = 4;
    if (magnitude > 2.5F) code = 5;
    if (magnitude >= 3.5F) code = 6;
    if (magnitude > 5.0F) code = 7;
    return sign | code;
}

/// Symmetric 4-bit integer in offset binary: code - 8.
inline float int4_to_float(std::uint8_t code) noexcept { return static_cast<float>(static_cast<int>(code & 15U) - 8); }

}  // namespace tokamak::scalar
