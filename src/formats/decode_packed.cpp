// SPDX-License-Identifier: Apache-2.0
// Rows of a packed matrix to float: the CPU backend's weight reader.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "formats/decode.h"
#include "formats/fragment.h"
#include "formats/packed_tile.h"
#include "tokamak/weight_format.h"

namespace tokamak {
namespace {

using formats::kBlockCols;
using formats::kFragmentBytes;
using formats::kRowBytes;
using formats::kSlabRows;
using formats::kSlabs;
using formats::kStripRows;
using formats::TileShape;

constexpr std::int64_t kMaxTileCols = 128;
constexpr std::int64_t kScaleBytes = sizeof(float);
using TileValues = std::array<float, kMaxTileCols>;

/// One row of a strip, tile by tile.
struct RowReader {
    const PackedLayout& layout;
    const std::byte* strip;
    int row;  ///< within the strip
    TileShape tile = formats::tile_shape(layout.spec);
    const std::array<float, 16>& codes = formats::code_values(layout.spec.format);
    const std::array<float, 256>& e4m3 = formats::e4m3_values();

    /// f32 scales after the tiles: pairs for rows with (row & 8) = 0 and the others.
    [[nodiscard]] const std::byte* strip_scales() const noexcept {
        return strip + static_cast<std::size_t>(layout.tiles) * layout.tile_bytes;
    }

    /// Code values of one block of 64 columns. The row owns pairs 0 and 2 of its lanes' words, or 1 and 3.
    template <WeightFormat format>
    void block_4bit(const std::byte* fragment, float* out) const noexcept {
        const int half = row / 8 % 2 * 4;
        const std::byte* lane = fragment + row % 8 * 64;
        for (int t = 0; t < 4; ++t, lane += 16) {
            std::array<std::uint32_t, 4> words{};
            std::memcpy(words.data(), lane, sizeof words);
            for (int w = 0; w < 4; ++w) {
                std::uint32_t all = words[static_cast<std::size_t>(w)];
                if constexpr (format != WeightFormat::int4) all = formats::word_codes(formats::kMxfp4Codes, all);
                all >>= half;  // an int4 word has its codes in order as it is
                float* at = out + 16 * w + 2 * t;
                at[0] = codes[all & 15U];
                at[1] = codes[all >> 16 & 15U];
                at[8] = codes[all >> 8 & 15U];
                at[9] = codes[all >> 24 & 15U];
            }
        }
    }

    void tile_4bit(const std::byte* bytes, float* out) const noexcept {
        for (std::int64_t k = 0; k < tile.k_blocks; ++k) {
            const std::byte* fragment = bytes + (k * kSlabs + row / kSlabRows) * kFragmentBytes;
            float* const block = out + k * kBlockCols;
            layout.spec.format == WeightFormat::int4 ? block_4bit<WeightFormat::int4>(fragment, block)
                                                     : block_4bit<WeightFormat::mxfp4>(fragment, block);
        }
        const int group_size = layout.spec.group_size;
        for (std::int64_t group = 0; group < tile.groups; ++group, out += group_size) {
            const float scale = formats::load_scale(layout.spec, bytes + formats::scale_offset(tile, row, group));
            for (int i = 0; i < group_size; ++i) out[i] *= scale;
        }
        if (layout.spec.format == WeightFormat::nvfp4)
            formats::multiply(out - tile.cols, tile.cols,
                              formats::load_f32(strip_scales() + row / 8 % 2 * kScaleBytes));
    }

    void tile_bytes(std::int64_t index, const std::byte* bytes, float* out) const noexcept {
        std::array<std::byte, kRowBytes> staged{};
        for (int byte = 0; byte < kRowBytes; byte += 16)
            std::memcpy(staged.data() + byte, bytes + formats::swizzled_offset(row, byte), 16);
        if (layout.spec.format == WeightFormat::bf16) {
            for (int i = 0; i < kRowBytes / 2; ++i) out[i] = formats::load_bf16(staged.data() + 2 * i);
            return;
        }
        const float scale = formats::load_f32(strip_scales() + (2 * index + row / 8 % 2) * kScaleBytes);
        for (std::size_t i = 0; i < kRowBytes; ++i) out[i] = e4m3[std::to_integer<std::size_t>(staged[i])] * scale;
    }

    void read(std::int64_t index, float* out) const noexcept {
        const std::byte* bytes = strip + static_cast<std::size_t>(index) * layout.tile_bytes;
        formats::is_4bit(layout.spec) ? tile_4bit(bytes, out) : tile_bytes(index, bytes, out);
    }
};

bool is_padding(const PackedLayout& layout, std::int64_t row) noexcept {
    if (!layout.gate_up) return row >= layout.rows;
    return row / 16 * 8 + row % 8 >= layout.rows / 2;
}

void check_call(const PackedLayout& layout, std::size_t bytes, std::int64_t row, std::int64_t col, std::int64_t count) {
    constexpr const char* op = "decode_packed_row";
    constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();
    if (layout.version != PackedLayout::current_version)
        invalid("{}: `layout` has version {}, this library reads version {}", op, layout.version,
                PackedLayout::current_version);
    if (bytes != layout.matrix_bytes) invalid("{}: `packed` has {} bytes, expected {}", op, bytes, layout.matrix_bytes);
    check::range(op, "row", row, 0, layout.strips * kStripRows - 1);
    check::range(op, "col", col, 0, unlimited);
    check::range(op, "count", count, 0, unlimited - col);
}

}  // namespace

void decode_packed_row(const PackedLayout& layout, std::span<const std::byte> packed, std::int64_t row,
                       std::int64_t col, std::int64_t count, float* out) {
    check_call(layout, packed.size(), row, col, count);
    const std::size_t strip = static_cast<std::size_t>(row / kStripRows) * layout.strip_bytes;
    const RowReader reader{layout, packed.data() + strip, static_cast<int>(row % kStripRows)};
    const std::int64_t cols = is_padding(layout, row) ? 0 : layout.cols;
    const std::int64_t end = std::max(col, std::min(col + count, cols));
    TileValues values;
    for (std::int64_t at = col; at < end;) {
        const std::int64_t first = at / layout.tile_cols * layout.tile_cols;
        const std::int64_t last = std::min(first + layout.tile_cols, end);
        if (at == first && last == first + layout.tile_cols) {
            reader.read(first / layout.tile_cols, out + (at - col));
        } else {
            reader.read(first / layout.tile_cols, values.data());
            std::copy(values.begin() + (at - first), values.begin() + (last - first), out + (at - col));
        }
        at = last;
    }
    // Padding is written as zeros rather than decoded: an fp8 block scale may be infinite, and 0 * inf is not 0.
    std::fill(out + (end - col), out + count, 0.0F);
}

}  // namespace tokamak
