// SPDX-License-Identifier: Apache-2.0
// Random data by position: the same number for the same index on every device and in every order.
#pragma once

#include <cmath>
#include <cstdint>

#include "formats/packed_tile.h"

#ifdef __CUDACC__
#define TOKAMAK_ANYWHERE __host__ __device__
#else
#define TOKAMAK_ANYWHERE
#endif

namespace tokamak::cli::bench {

TOKAMAK_ANYWHERE inline std::uint32_t mix(std::uint64_t index, std::uint32_t seed) {
    std::uint32_t h = static_cast<std::uint32_t>(index) * 0x9E3779B1U + static_cast<std::uint32_t>(index >> 32) + seed;
    h = (h ^ (h >> 16)) * 0x85EBCA6BU;
    h = (h ^ (h >> 13)) * 0xC2B2AE35U;
    return h ^ (h >> 16);
}

/// Where codes and scales lie in a packed matrix; all borders are multiples of 16 bytes.
struct PackedFill {
    WeightFormat format;
    std::uint64_t strip_bytes, tiles_bytes, tile_bytes, code_bytes;
};

inline PackedFill packed_fill(const PackedLayout& layout) {
    return {layout.spec.format, layout.strip_bytes, static_cast<std::uint64_t>(layout.tiles) * layout.tile_bytes,
            layout.tile_bytes, formats::tile_shape(layout.spec).code_bytes};
}

/// Codes without NaN, about 2^-6 in bf16.
TOKAMAK_ANYWHERE inline std::uint32_t code_word(WeightFormat format, std::uint32_t bits) {
    if (format == WeightFormat::bf16) return (bits & 0x80FF80FFU) | 0x3C003C00U;  // exponent fields 120 and 121
    if (format != WeightFormat::fp8_block) return bits;
    const std::uint32_t nan = ((bits & 0x7F7F7F7FU) + 0x01010101U) & 0x80808080U;  // bytes 0x7F and 0xFF
    return bits ^ (nan >> 7);
}

/// Scales inside a tile: bf16 2^-8 to 2^-7 (int4), bytes 119 and 120 (mxfp4), e4m3 0.5 and 0.5625 (nvfp4). At the end
/// of a strip: f32 2^-14 to 2^-13 (fp8_block), 2^-6 to 2^-5 (nvfp4).
TOKAMAK_ANYWHERE inline std::uint32_t scale_word(WeightFormat format, bool in_tile, std::uint32_t bits) {
    if (format == WeightFormat::int4) return (bits & 0x007F007FU) | 0x3B803B80U;
    if (format == WeightFormat::mxfp4) return (bits & 0x01010101U) + 0x77777777U;
    if (format != WeightFormat::nvfp4) return (bits & 0x007FFFFFU) | 0x38800000U;
    return in_tile ? (bits & 0x01010101U) + 0x30303030U : (bits & 0x007FFFFFU) | 0x3C800000U;
}

/// The four words of 16 packed bytes.
TOKAMAK_ANYWHERE inline void packed_words(const PackedFill& fill, std::uint64_t vector, std::uint32_t seed,
                                          std::uint32_t (&words)[4]) {
    const std::uint64_t in_strip = vector * 16 % fill.strip_bytes;
    const bool in_tile = in_strip < fill.tiles_bytes;
    const bool codes = in_tile && in_strip % fill.tile_bytes < fill.code_bytes;
    for (int w = 0; w < 4; ++w) {
        const std::uint32_t bits = mix(vector * 4 + static_cast<std::uint64_t>(w), seed);
        words[w] = codes ? code_word(fill.format, bits) : scale_word(fill.format, in_tile, bits);
    }
}

struct NormalPair {
    float a, b;
};

/// Box-Muller; the first number is never 0.
TOKAMAK_ANYWHERE inline NormalPair normal_pair(std::uint64_t pair, std::uint32_t seed) {
    const float u = (static_cast<float>(mix(2 * pair, seed) >> 8) + 0.5F) * 0x1p-24F;
    const float angle = static_cast<float>(mix(2 * pair + 1, seed) >> 8) * (6.2831853F * 0x1p-24F);
    const float radius = sqrtf(-2.0F * logf(u));
    return {radius * cosf(angle), radius * sinf(angle)};
}

/// In [0, bound).
TOKAMAK_ANYWHERE inline std::int32_t uniform_number(std::uint64_t index, std::uint32_t seed, std::uint32_t bound) {
    return static_cast<std::int32_t>((static_cast<std::uint64_t>(mix(index, seed)) * bound) >> 32);
}

}  // namespace tokamak::cli::bench
