// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a KV row lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tokamak/kv_format.h"

namespace tokamak::kv {

inline constexpr int kRopeDim = 64;

/// One row of fp8_656. Bytes only, because a cache tensor promises no alignment.
struct Row656 {
    static constexpr int kLatentDim = 512;
    static constexpr int kGroup = 128;
    static constexpr int kGroups = kLatentDim / kGroup;

    std::uint8_t codes[kLatentDim];
    std::byte scales[kGroups * sizeof(float)];
    std::byte rope[kRopeDim * 2];
};
static_assert(sizeof(Row656) == 656 && offsetof(Row656, scales) == 512 && offsetof(Row656, rope) == 528);

/// Values of one row of fp8_584 and fp8_split.
struct Row576 {
    static constexpr int kLatentDim = 448;
    static constexpr int kGroup = 64;
    static constexpr int kGroups = kLatentDim / kGroup;

    std::uint8_t codes[kLatentDim];
    std::byte rope[kRopeDim * 2];
};
static_assert(sizeof(Row576) == 576 && offsetof(Row576, rope) == 448);

/// Scales of such a row.
struct Scales8 {
    std::uint8_t exponents[Row576::kGroups];
    std::uint8_t pad;  ///< written as 0, ignored when read
};
static_assert(sizeof(Scales8) == 8);

inline constexpr std::int64_t kFooterRowBytes = sizeof(Row576) + sizeof(Scales8);
inline constexpr std::int64_t kMxfp4Group = 32;

/// Addresses of one row; `scales` is null where the format keeps none apart.
struct RowAddress {
    std::byte* values = nullptr;
    std::byte* scales = nullptr;
};

/// 64-bit throughout: pools pass 2^31 bytes.
inline RowAddress locate(const KvCache& cache, std::int64_t slot) noexcept {
    const std::int64_t page = slot / cache.page_size;
    const std::int64_t row = slot % cache.page_size;
    auto* const values = cache.values.as<std::byte>() +
                         page * cache.values.stride(0) * static_cast<std::int64_t>(size_of(cache.values.dtype));
    const auto scales = [&] { return cache.scales.as<std::byte>() + page * cache.scales.stride(0); };
    switch (cache.format) {
        case KvFormat::bf16: return {values + row * cache.dim * 2, nullptr};
        case KvFormat::f32: return {values + row * cache.dim * 4, nullptr};
        case KvFormat::fp8_656: return {values + row * std::int64_t{sizeof(Row656)}, nullptr};
        case KvFormat::fp8_584:
            return {values + row * std::int64_t{sizeof(Row576)},
                    values + cache.page_size * std::int64_t{sizeof(Row576)} + row * std::int64_t{sizeof(Scales8)}};
        case KvFormat::fp8_split:
            return {values + row * std::int64_t{sizeof(Row576)}, scales() + row * std::int64_t{sizeof(Scales8)}};
        case KvFormat::mxfp4: return {values + row * (cache.dim / 2), scales() + row * (cache.dim / kMxfp4Group)};
    }
    return {};
}

}  // namespace tokamak::kv
