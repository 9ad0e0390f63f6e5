// SPDX-License-Identifier: Apache-2.0
// Reading and writing single KV rows on the host: the reference of every backend.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "core/simd.h"
#include "formats/kv_layout.h"
#include "formats/scalar.h"
#include "tokamak/kv_format.h"

namespace tokamak {
namespace {

/// The smallest magnitude that an fp8 group's scale is made for, as FlashMLA's writer has it: no scale is ever zero.
constexpr float kSmallestAmax = 1e-4F;
constexpr float kLargestE4m3 = 448.0F;

TOKAMAK_CPU_CLONES void decode_e4m3(const std::uint8_t* codes, int count, float scale, float* out) {
    for (int i = 0; i < count; ++i) out[i] = scalar::e4m3_to_float(codes[i]) * scale;
}

TOKAMAK_CPU_CLONES void decode_bf16(const std::byte* bytes, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, bytes + 2 * i, sizeof(bits));
        out[i] = scalar::bf16_to_float(bits);
    }
}

void encode_bf16(const float* values, std::int64_t count, std::byte* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        const std::uint16_t bits = scalar::float_to_bf16(values[i]);
        std::memcpy(out + 2 * i, &bits, sizeof(bits));
    }
}

float largest_finite(const float* values, int count) noexcept {
    float largest = 0.0F;
    for (int i = 0; i < count; ++i)
        if (std::isfinite(values[i])) largest = std::max(largest, std::fabs(values[i]));
    return largest;
}

/// floor(log2(value)) without the rounding of a logarithm, subnormals included; value > 0.
int floor_log2(float value) noexcept {
    int exponent = 0;
    (void)std::frexp(value, &exponent);
    return exponent - 1;
}

int ceil_log2(float value) noexcept {
    int exponent = 0;
    const float mantissa = std::frexp(value, &exponent);
    return mantissa == 0.5F ? exponent - 1 : exponent;
}

std::uint8_t e8m0_code(int exponent) noexcept { return static_cast<std::uint8_t>(std::clamp(exponent + 127, 0, 254)); }

float exact_scale(const float* values, int count) noexcept {
    return std::max(largest_finite(values, count), kSmallestAmax) / kLargestE4m3;
}

std::uint8_t power_of_two_scale(const float* values, int count) noexcept {
    return e8m0_code(ceil_log2(exact_scale(values, count)));
}

void encode_e4m3(const float* values, int count, float scale, std::uint8_t* codes) {
    for (int i = 0; i < count; ++i) codes[i] = scalar::float_to_e4m3(values[i] / scale);
}

void decode_656(const std::byte* values, float* out) {
    using Row = kv::Row656;
    Row row;
    std::memcpy(&row, values, sizeof(row));
    float scales[Row::kGroups];
    std::memcpy(scales, row.scales, sizeof(scales));
    for (int g = 0; g < Row::kGroups; ++g)
        decode_e4m3(row.codes + g * Row::kGroup, Row::kGroup, scales[g], out + g * Row::kGroup);
    decode_bf16(row.rope, kv::kRopeDim, out + Row::kLatentDim);
}

void encode_656(const float* values, KvScale rule, std::byte* out) {
    using Row = kv::Row656;
    Row row;
    float scales[Row::kGroups];
    for (int g = 0; g < Row::kGroups; ++g) {
        const float* const group = values + g * Row::kGroup;
        scales[g] = rule == KvScale::exact ? exact_scale(group, Row::kGroup)
                                           : scalar::e8m0_to_float(power_of_two_scale(group, Row::kGroup));
        encode_e4m3(group, Row::kGroup, scales[g], row.codes + g * Row::kGroup);
    }
    std::memcpy(row.scales, scales, sizeof(scales));
    encode_bf16(values + Row::kLatentDim, kv::kRopeDim, row.rope);
    std::memcpy(out, &row, sizeof(row));
}

void decode_576(const std::byte* values, const std::byte* scale_bytes, float* out) {
    using Row = kv::Row576;
    Row row;
    kv::Scales8 scales;
    std::memcpy(&row, values, sizeof(row));
    std::memcpy(&scales, scale_bytes, sizeof(scales));
    for (int g = 0; g < Row::kGroups; ++g)
        decode_e4m3(row.codes + g * Row::kGroup, Row::kGroup, scalar::kv_scale_to_float(scales.exponents[g]),
                    out + g * Row::kGroup);
    decode_bf16(row.rope, kv::kRopeDim, out + Row::kLatentDim);
}

void encode_576(const float* values, std::byte* out, std::byte* scale_bytes) {
    using Row = kv::Row576;
    Row row;
    kv::Scales8 scales{};
    for (int g = 0; g < Row::kGroups; ++g) {
        const float* const group = values + g * Row::kGroup;
        scales.exponents[g] = power_of_two_scale(group, Row::kGroup);
        encode_e4m3(group, Row::kGroup, scalar::e8m0_to_float(scales.exponents[g]), row.codes + g * Row::kGroup);
    }
    encode_bf16(values + Row::kLatentDim, kv::kRopeDim, row.rope);
    std::memcpy(out, &row, sizeof(row));
    std::memcpy(scale_bytes, &scales, sizeof(scales));
}

void decode_mxfp4(const std::byte* pairs, const std::byte* scales, std::int64_t dim, float* out) {
    for (std::int64_t i = 0; i < dim; i += 2) {
        const float scale = scalar::mxfp4_scale_to_float(static_cast<std::uint8_t>(scales[i / kv::kMxfp4Group]));
        const auto pair = static_cast<std::uint8_t>(pairs[i / 2]);
        out[i] = scalar::e2m1_to_float(pair & 15U) * scale;
        out[i + 1] = scalar::e2m1_to_float(pair >> 4) * scale;
    }
}

void encode_mxfp4(const float* values, std::int64_t dim, std::byte* pairs, std::byte* scales) {
    constexpr int largest_exponent = 2;  // of the code 6 = 1.5 * 2^2
    for (std::int64_t first = 0; first < dim; first += kv::kMxfp4Group) {
        const float amax = largest_finite(values + first, kv::kMxfp4Group);
        const std::uint8_t code = amax > 0.0F ? e8m0_code(floor_log2(amax) - largest_exponent) : 0;
        const float scale = scalar::e8m0_to_float(code);
        for (std::int64_t i = first; i < first + kv::kMxfp4Group; i += 2)
            pairs[i / 2] = static_cast<std::byte>(scalar::float_to_e2m1(values[i] / scale) |
                                                  (scalar::float_to_e2m1(values[i + 1] / scale) << 4));
        scales[first / kv::kMxfp4Group] = static_cast<std::byte>(code);
    }
}

}  // namespace

void decode_kv_row(const KvCache& cache, std::int64_t slot, float* out) {
    assert(slot >= 0 && slot < cache.rows());
    const kv::RowAddress row = kv::locate(cache, slot);
    switch (cache.format) {
        case KvFormat::bf16: return decode_bf16(row.values, cache.dim, out);
        case KvFormat::f32: std::memcpy(out, row.values, static_cast<std::size_t>(cache.dim) * sizeof(float)); return;
        case KvFormat::fp8_656: return decode_656(row.values, out);
        case KvFormat::fp8_584:
        case KvFormat::fp8_split: return decode_576(row.values, row.scales, out);
        case KvFormat::mxfp4: return decode_mxfp4(row.values, row.scales, cache.dim, out);
    }
}

void encode_kv_row(const KvCache& cache, std::int64_t slot, const float* values, KvScale scale) {
    assert(slot >= 0 && slot < cache.rows());
    const kv::RowAddress row = kv::locate(cache, slot);
    switch (cache.format) {
        case KvFormat::bf16: return encode_bf16(values, cache.dim, row.values);
        case KvFormat::f32:
            std::memcpy(row.values, values, static_cast<std::size_t>(cache.dim) * sizeof(float));
            return;
        case KvFormat::fp8_656: return encode_656(values, scale, row.values);
        case KvFormat::fp8_584:
        case KvFormat::fp8_split: return encode_576(values, row.values, row.scales);
        case KvFormat::mxfp4: return encode_mxfp4(values, cache.dim, row.values, row.scales);
    }
}

}  // namespace tokamak
