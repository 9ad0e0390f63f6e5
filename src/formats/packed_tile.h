// SPDX-License-Identifier: Apache-2.0
// Geometry of the packed layout, version 1 (docs/formats.md): what a tile holds and where.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tokamak/weight_format.h"

namespace tokamak::formats {

static_assert(std::endian::native == std::endian::little, "checkpoints and packed weights are little-endian");

inline constexpr int kSlabRows = 16;  ///< rows of one mma tile
inline constexpr int kSlabs = 4;      ///< slabs of a strip
inline constexpr int kStripRows = 64;
inline constexpr int kBlockCols = 64;  ///< k covered by one 16-byte load per lane of a 4-bit slab
inline constexpr int kFragmentBytes = 512;
inline constexpr int kRowBytes = 128;  ///< bytes of a row in an 8- or 16-bit tile
inline constexpr int kFp8Block = 128;  ///< rows and columns that share an fp8_block scale

constexpr std::size_t round_to_128(std::size_t bytes) noexcept { return (bytes + 127) / 128 * 128; }

constexpr bool is_4bit(const WeightSpec& spec) noexcept {
    return spec.format == WeightFormat::int4 || spec.format == WeightFormat::mxfp4 ||
           spec.format == WeightFormat::nvfp4;
}

/// A bf16 spec's scale type means nothing; this makes specs comparable.
inline WeightSpec normalised(const WeightSpec& spec) noexcept {
    return spec.format == WeightFormat::bf16 ? WeightSpec::bf16() : spec;
}

/// One tile of 64 rows. Codes come first, then (4-bit formats) the scales of the tile.
struct TileShape {
    std::int64_t cols = 0;
    std::int64_t k_blocks = 0;   ///< 4-bit: blocks of 64 columns
    std::int64_t groups = 0;     ///< 4-bit: scales per row
    std::size_t scale_size = 0;  ///< 4-bit: bytes of a scale
    std::size_t code_bytes = 0;
    std::size_t bytes = 0;
};

constexpr TileShape tile_shape(const WeightSpec& spec) noexcept {
    TileShape tile;
    if (!is_4bit(spec)) {
        tile.cols = spec.format == WeightFormat::bf16 ? 64 : 128;
        tile.code_bytes = std::size_t{kStripRows} * kRowBytes;
        tile.bytes = tile.code_bytes;
        return tile;
    }
    tile.cols = spec.group_size > kBlockCols ? spec.group_size : kBlockCols;
    tile.k_blocks = tile.cols / kBlockCols;
    tile.groups = tile.cols / spec.group_size;
    tile.scale_size = size_of(spec.scale_dtype);
    tile.code_bytes = static_cast<std::size_t>(kStripRows * tile.cols / 2);
    tile.bytes = tile.code_bytes + round_to_128(static_cast<std::size_t>(kStripRows * tile.groups) * tile.scale_size);
    return tile;
}

/// Byte of a row's scale in a 4-bit tile; `row` counts within the strip. Rows g and g+8 of a slab lie side by side,
/// because a lane of the mma owns both.
constexpr std::size_t scale_offset(const TileShape& tile, int row, std::int64_t group) noexcept {
    const int slab = row / kSlabRows;
    const int g = row % 8;
    const int half = row / 8 % 2;
    const std::int64_t index = ((slab * 8 + g) * tile.groups + group) * 2 + half;
    return tile.code_bytes + static_cast<std::size_t>(index) * tile.scale_size;
}

/// The 128-byte swizzle of TMA and wgmma: byte `byte` of row `row` of an 8- or 16-bit tile.
constexpr std::size_t swizzled_offset(int row, int byte) noexcept {
    return static_cast<std::size_t>(row * kRowBytes + (byte ^ ((row & 7) << 4)));
}

}  // namespace tokamak::formats
