// SPDX-License-Identifier: Apache-2.0
// Packing and unpacking, strip by strip. Rows are staged in small buffers, so that padding is decided once per row and
// block and the inner loops have none of it.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/check.h"
#include "core/throw.h"
#include "formats/fragment.h"
#include "formats/matrix_rows.h"
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
using formats::SlabCodes;
using formats::StripRows;
using formats::TileShape;

/// How many of the `width` bytes from `offset` on lie within a row of `row_bytes`.
std::size_t bytes_in_row(std::int64_t row_bytes, std::int64_t offset, std::int64_t width) noexcept {
    return static_cast<std::size_t>(std::clamp<std::int64_t>(row_bytes - offset, 0, width));
}

/// Codes of a slab and block: `pad` where the matrix ends.
void load_slab(const StripRows& rows, int slab, std::size_t offset, std::size_t valid, std::uint8_t pad,
               SlabCodes& codes) noexcept {
    for (int r = 0; r < kSlabRows; ++r) {
        auto& row = codes[static_cast<std::size_t>(r)];
        const std::byte* source = rows.values[static_cast<std::size_t>(slab * kSlabRows + r)];
        const std::size_t have = source == nullptr ? 0 : valid;
        if (have < row.size()) row.fill(pad);
        if (have > 0) std::memcpy(row.data(), source + offset, have);
    }
}

void store_slab(const SlabCodes& codes, const StripRows& rows, int slab, std::size_t offset,
                std::size_t valid) noexcept {
    for (int r = 0; r < kSlabRows; ++r) {
        std::byte* target = rows.values[static_cast<std::size_t>(slab * kSlabRows + r)];
        if (target != nullptr && valid > 0)
            std::memcpy(target + offset, codes[static_cast<std::size_t>(r)].data(), valid);
    }
}

/// Calls copy(packed byte, checkpoint byte) for every scale of a 4-bit tile that the matrix has.
template <class Copy>
void for_each_scale(const PackedLayout& layout, const TileShape& tile, const StripRows& rows, std::int64_t index,
                    Copy copy) {
    const std::int64_t first = index * tile.groups;
    const std::int64_t groups = std::min(tile.groups, layout.cols / layout.spec.group_size - first);
    for (int r = 0; r < kStripRows; ++r) {
        std::byte* row = rows.scales[static_cast<std::size_t>(r)];
        if (row == nullptr) continue;
        for (std::int64_t group = 0; group < groups; ++group)
            copy(formats::scale_offset(tile, r, group),
                 row + static_cast<std::size_t>(first + group) * tile.scale_size);
    }
}

/// Calls block(packed bytes, slab, byte offset in a row, bytes of it within the matrix) for every fragment of a tile.
template <class Block>
void for_each_fragment(const PackedLayout& layout, const TileShape& tile, std::int64_t index, Block block) {
    for (std::int64_t k = 0; k < tile.k_blocks; ++k) {
        const std::int64_t offset = (index * tile.cols + k * kBlockCols) / 2;
        const std::size_t valid = bytes_in_row(layout.cols / 2, offset, kBlockCols / 2);
        for (int slab = 0; slab < kSlabs; ++slab)
            block(static_cast<std::size_t>((k * kSlabs + slab) * kFragmentBytes), slab,
                  static_cast<std::size_t>(offset), valid);
    }
}

/// An mxfp4 group with scale code 0xFF is worth zero whatever its codes are. Kernels decode scales without a test for
/// it (two of eight instructions), so packing stores zero codes under scale code 0 instead.
constexpr std::byte kDeadScale{0xFF};

void clear_dead_groups(const StripRows& rows, int slab, std::int64_t first_group, std::int64_t groups,
                       SlabCodes& codes) {
    for (int r = 0; r < kSlabRows; ++r) {
        const std::byte* scales = rows.scales[static_cast<std::size_t>(slab * kSlabRows + r)];
        if (scales == nullptr) continue;
        auto& row = codes[static_cast<std::size_t>(r)];
        const std::size_t group_bytes = 16;  // 32 codes
        for (std::int64_t group = 0; group < groups; ++group)
            if (scales[first_group + group] == kDeadScale)
                std::fill_n(row.begin() + group * static_cast<std::int64_t>(group_bytes), group_bytes, std::uint8_t{0});
    }
}

void pack_strip_4bit(const PackedLayout& layout, const StripRows& rows, std::byte* out) {
    const TileShape tile = formats::tile_shape(layout.spec);
    const formats::WordTable& table = formats::word_table(layout.spec.format);
    const bool mxfp4 = layout.spec.format == WeightFormat::mxfp4;
    const std::uint8_t pad = layout.spec.format == WeightFormat::int4 ? 0x88 : 0x00;  // code of the value 0, twice
    SlabCodes codes;
    for (std::int64_t index = 0; index < layout.tiles; ++index, out += tile.bytes) {
        for_each_fragment(layout, tile, index,
                          [&](std::size_t packed, int slab, std::size_t offset, std::size_t valid) {
                              load_slab(rows, slab, offset, valid, pad, codes);
                              if (mxfp4)
                                  clear_dead_groups(rows, slab, static_cast<std::int64_t>(offset / 16),
                                                    static_cast<std::int64_t>(valid / 16), codes);
                              formats::encode_fragment(table, codes, out + packed);
                          });
        std::memset(out + tile.code_bytes, 0, tile.bytes - tile.code_bytes);
        for_each_scale(layout, tile, rows, index, [&](std::size_t packed, const std::byte* source) {
            std::memcpy(out + packed, source, tile.scale_size);
            if (mxfp4 && out[packed] == kDeadScale) out[packed] = std::byte{0};
        });
    }
}

void unpack_strip_4bit(const PackedLayout& layout, const std::byte* in, const StripRows& rows) {
    const TileShape tile = formats::tile_shape(layout.spec);
    const formats::CodeTable& table = formats::code_table(layout.spec.format);
    SlabCodes codes;
    for (std::int64_t index = 0; index < layout.tiles; ++index, in += tile.bytes) {
        for_each_fragment(layout, tile, index,
                          [&](std::size_t packed, int slab, std::size_t offset, std::size_t valid) {
                              formats::decode_fragment(table, in + packed, codes);
                              store_slab(codes, rows, slab, offset, valid);
                          });
        for_each_scale(layout, tile, rows, index, [&](std::size_t packed, std::byte* target) {
            std::memcpy(target, in + packed, tile.scale_size);
        });
    }
}

/// bf16 and fp8_block tiles: rows of 128 bytes, 16-byte chunks swizzled.
void pack_strip_bytes(const PackedLayout& layout, const StripRows& rows, std::byte* out) {
    const std::int64_t row_bytes = layout.cols * kRowBytes / layout.tile_cols;
    std::array<std::byte, kRowBytes> staged{};
    for (std::int64_t index = 0; index < layout.tiles; ++index, out += layout.tile_bytes) {
        const std::int64_t offset = index * kRowBytes;
        const std::size_t valid = bytes_in_row(row_bytes, offset, kRowBytes);
        for (int r = 0; r < kStripRows; ++r) {
            const std::byte* source = rows.values[static_cast<std::size_t>(r)];
            if (source == nullptr || valid < staged.size()) staged.fill(std::byte{0});
            if (source != nullptr) std::memcpy(staged.data(), source + offset, valid);
            for (int byte = 0; byte < kRowBytes; byte += 16)
                std::memcpy(out + formats::swizzled_offset(r, byte), staged.data() + byte, 16);
        }
    }
}

void unpack_strip_bytes(const PackedLayout& layout, const std::byte* in, const StripRows& rows) {
    const std::int64_t row_bytes = layout.cols * kRowBytes / layout.tile_cols;
    std::array<std::byte, kRowBytes> staged{};
    for (std::int64_t index = 0; index < layout.tiles; ++index, in += layout.tile_bytes) {
        const std::int64_t offset = index * kRowBytes;
        const std::size_t valid = bytes_in_row(row_bytes, offset, kRowBytes);
        for (int r = 0; r < kStripRows; ++r) {
            std::byte* target = rows.values[static_cast<std::size_t>(r)];
            if (target == nullptr) continue;
            for (int byte = 0; byte < kRowBytes; byte += 16)
                std::memcpy(staged.data() + byte, in + formats::swizzled_offset(r, byte), 16);
            std::memcpy(target + offset, staged.data(), valid);
        }
    }
}

/// Scales of an fp8_block strip, two per tile: rows with (row & 8) == 0, then the others. All rows of a half share a
/// block, so the first row speaks for them; row 8 of a plain matrix may be padding, then row 0 speaks for both.
void pack_strip_scales(const PackedLayout& layout, const StripRows& rows, std::byte* out) {
    const std::size_t tile_scales = static_cast<std::size_t>(layout.tiles) * layout.tile_bytes;
    std::memset(out + tile_scales, 0, layout.strip_bytes - tile_scales);
    const std::byte* first = rows.scales[0];
    const std::byte* second = rows.scales[8] != nullptr ? rows.scales[8] : first;
    for (std::int64_t index = 0; index < layout.tiles; ++index) {
        std::byte* target = out + tile_scales + static_cast<std::size_t>(index) * 2 * sizeof(float);
        std::memcpy(target, first + index * std::int64_t{sizeof(float)}, sizeof(float));
        std::memcpy(target + sizeof(float), second + index * std::int64_t{sizeof(float)}, sizeof(float));
    }
}

void unpack_strip_scales(const PackedLayout& layout, const std::byte* in, const StripRows& rows) {
    in += static_cast<std::size_t>(layout.tiles) * layout.tile_bytes;
    for (std::int64_t index = 0; index < layout.tiles; ++index, in += 2 * sizeof(float))
        for (std::size_t half = 0; half < 2; ++half)
            if (std::byte* target = rows.scales[half * 8]; target != nullptr)
                std::memcpy(target + index * std::int64_t{sizeof(float)}, in + half * sizeof(float), sizeof(float));
}

/// Global scales of an nvfp4 strip: of rows with (row & 8) == 0, then of the others.
void pack_global_scales(const PackedLayout& layout, const formats::Halves& halves, std::byte* out) {
    const std::size_t tiles = static_cast<std::size_t>(layout.tiles) * layout.tile_bytes;
    std::memset(out + tiles, 0, layout.strip_bytes - tiles);
    std::memcpy(out + tiles, halves[0].global_scale, sizeof(float));
    std::memcpy(out + tiles + sizeof(float), halves[layout.gate_up ? 1 : 0].global_scale, sizeof(float));
}

/// Every strip has the same two, so the first one speaks for the matrix.
void unpack_global_scales(const PackedLayout& layout, std::span<const std::byte> packed,
                          const formats::Halves& halves) {
    const std::byte* scales = packed.data() + static_cast<std::size_t>(layout.tiles) * layout.tile_bytes;
    if (layout.gate_up && halves[0].global_scale == halves[1].global_scale &&
        std::memcmp(scales, scales + sizeof(float), sizeof(float)) != 0)
        invalid("unpack: `destination.global_scale` is f32[1], expected f32[2]: those of gate and up differ");
    std::memcpy(halves[0].global_scale, scales, sizeof(float));
    if (layout.gate_up) std::memcpy(halves[1].global_scale, scales + sizeof(float), sizeof(float));
}

void check_layout(const PackedLayout& layout, std::size_t bytes, const char* op, const char* buffer) {
    const PackedLayout expected = PackedLayout::make(layout.spec, layout.rows, layout.cols, layout.gate_up);
    if (layout.version != expected.version)
        invalid("{}: `layout` has version {}, this library writes and reads version {}", op, layout.version,
                expected.version);
    if (!(layout == expected)) invalid("{}: `layout` is not what PackedLayout::make gives for its matrix", op);
    if (bytes != layout.matrix_bytes)
        invalid("{}: `{}` has {} bytes, expected {}", op, buffer, bytes, layout.matrix_bytes);
}

void check_apart(const WeightMatrix& matrix, std::span<const std::byte> packed, const char* op, const char* buffer,
                 const char* name) {
    const Tensor bytes(packed.data(), DType::u8, {static_cast<std::int64_t>(packed.size())});
    check::no_overlap(bytes, buffer, matrix.values, name, op);
    check::no_overlap(bytes, buffer, matrix.scales, name, op);
    check::no_overlap(bytes, buffer, matrix.global_scale, name, op);
}

void pack_halves(const PackedLayout& layout, const formats::Halves& halves, std::span<std::byte> destination) {
    std::byte* out = destination.data();
    for (std::int64_t strip = 0; strip < layout.strips; ++strip, out += layout.strip_bytes) {
        const StripRows rows = formats::strip_rows(layout, halves, strip);
        if (formats::is_4bit(layout.spec)) {
            pack_strip_4bit(layout, rows, out);
            if (layout.spec.format == WeightFormat::nvfp4) pack_global_scales(layout, halves, out);
        } else {
            pack_strip_bytes(layout, rows, out);
            if (layout.spec.format == WeightFormat::fp8_block) pack_strip_scales(layout, rows, out);
        }
    }
}

void unpack_halves(const PackedLayout& layout, std::span<const std::byte> packed, const formats::Halves& halves) {
    if (layout.spec.format == WeightFormat::nvfp4) unpack_global_scales(layout, packed, halves);
    const std::byte* in = packed.data();
    for (std::int64_t strip = 0; strip < layout.strips; ++strip, in += layout.strip_bytes) {
        const StripRows rows = formats::strip_rows(layout, halves, strip);
        if (formats::is_4bit(layout.spec)) {
            unpack_strip_4bit(layout, in, rows);
        } else {
            unpack_strip_bytes(layout, in, rows);
            if (layout.spec.format == WeightFormat::fp8_block) unpack_strip_scales(layout, in, rows);
        }
    }
}

}  // namespace

void pack(const PackedLayout& layout, const WeightMatrix& source, RowOrder order, std::span<std::byte> destination) {
    check_layout(layout, destination.size(), "pack", "destination");
    formats::check_matrix(source, layout.spec, layout.rows, layout.cols, "pack", "source", false, layout.gate_up);
    const formats::Halves halves = formats::split(layout, source, order, "pack");
    check_apart(source, destination, "pack", "destination", "source");
    pack_halves(layout, halves, destination);
}

void pack_gate_up(const PackedLayout& layout, const WeightMatrix& gate, const WeightMatrix& up,
                  std::span<std::byte> destination) {
    check_layout(layout, destination.size(), "pack_gate_up", "destination");
    if (!layout.gate_up) invalid("pack_gate_up: `layout` is of a plain matrix, expected a gate/up layout");
    formats::check_matrix(gate, layout.spec, layout.rows / 2, layout.cols, "pack_gate_up", "gate");
    formats::check_matrix(up, layout.spec, layout.rows / 2, layout.cols, "pack_gate_up", "up");
    check_apart(gate, destination, "pack_gate_up", "destination", "gate");
    check_apart(up, destination, "pack_gate_up", "destination", "up");
    pack_halves(layout, {formats::all_rows(gate), formats::all_rows(up)}, destination);
}

void unpack(const PackedLayout& layout, std::span<const std::byte> packed, RowOrder order,
            const WeightMatrix& destination) {
    check_layout(layout, packed.size(), "unpack", "packed");
    formats::check_matrix(destination, layout.spec, layout.rows, layout.cols, "unpack", "destination", true,
                          layout.gate_up);
    const formats::Halves halves = formats::split(layout, destination, order, "unpack");
    check_apart(destination, packed, "unpack", "packed", "destination");
    unpack_halves(layout, packed, halves);
}

void unpack_gate_up(const PackedLayout& layout, std::span<const std::byte> packed, const WeightMatrix& gate,
                    const WeightMatrix& up) {
    check_layout(layout, packed.size(), "unpack_gate_up", "packed");
    if (!layout.gate_up) invalid("unpack_gate_up: `layout` is of a plain matrix, expected a gate/up layout");
    formats::check_matrix(gate, layout.spec, layout.rows / 2, layout.cols, "unpack_gate_up", "gate", true);
    formats::check_matrix(up, layout.spec, layout.rows / 2, layout.cols, "unpack_gate_up", "up", true);
    check_apart(gate, packed, "unpack_gate_up", "packed", "gate");
    check_apart(up, packed, "unpack_gate_up", "packed", "up");
    unpack_halves(layout, packed, {formats::all_rows(gate), formats::all_rows(up)});
}

}  // namespace tokamak
