// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/error.h"
#include "tokamak/tensor.h"

namespace tokamak {

/// Storage of an expert's weight matrix. Source of the byte layouts: docs/formats.md.
enum class WeightFormat : std::uint8_t {
    bf16,
    fp8_block,  ///< e4m3, one f32 scale (to multiply by) per 128x128 block
    int4,       ///< offset binary (code - 8), one bf16 or f16 scale per row and group of 32, 64 or 128
    mxfp4,      ///< e2m1, one e8m0 scale per row and 32
    nvfp4,      ///< e2m1, one e4m3 scale per row and 16, one f32 scale (to multiply by) per matrix
};

/// A format with its parameters. Compare with ==; print with to_string ("int4_g32", "mxfp4", ...).
struct WeightSpec {
    WeightFormat format = WeightFormat::bf16;
    int group_size = 0;               ///< int4: 32, 64 or 128; mxfp4: 32; nvfp4: 16; fp8_block: 128; bf16: 0
    DType scale_dtype = DType::bf16;  ///< int4: bf16 or f16; fp8_block: f32; mxfp4: e8m0; nvfp4: e4m3; bf16: ignored

    static WeightSpec bf16() noexcept { return {WeightFormat::bf16, 0, DType::bf16}; }
    static WeightSpec fp8_block() noexcept { return {WeightFormat::fp8_block, 128, DType::f32}; }
    static WeightSpec int4(int group_size = 32, DType scale_dtype = DType::bf16) noexcept {
        return {WeightFormat::int4, group_size, scale_dtype};
    }
    static WeightSpec mxfp4() noexcept { return {WeightFormat::mxfp4, 32, DType::e8m0}; }
    static WeightSpec nvfp4() noexcept { return {WeightFormat::nvfp4, 16, DType::e4m3}; }
    friend bool operator==(const WeightSpec&, const WeightSpec&) = default;
};

/// "bf16", "fp8_block", "int4_g32", "int4_g64", "int4_g128", "mxfp4", "nvfp4"; f16 scales append "_f16".
std::string to_string(const WeightSpec& spec);
/// Inverse of to_string. Throws `parse` naming the text and the known names.
WeightSpec parse_weight_spec(std::string_view name);
/// Whether group size and scale type belong to the format.
Support valid(const WeightSpec& spec);

/// Order of the rows of a gate/up matrix in the checkpoint.
enum class RowOrder : std::uint8_t {
    plain,                 ///< no gate/up pairs: a down or a plain projection
    gate_up_concatenated,  ///< [gate; up]
    gate_up_interleaved,   ///< gate 0, up 0, gate 1, up 1, ... (gpt-oss)
};

/// One matrix [rows, cols] as checkpoints store it; `values` and `scales` are 2-d views whose rows may be strided and
/// whose data may be unaligned, as in a mapped file.
///   bf16       values bf16 [rows, cols]
///   fp8_block  values e4m3 (or u8) [rows, cols]; scales f32 [ceil(rows/128), ceil(cols/128)]
///   int4       values i32 [rows, cols/8], element j of a word in bits 4j..4j+3; scales bf16|f16 [rows, cols/group]
///   mxfp4      values u4x2 (or u8) [rows, cols/2], low nibble first; scales e8m0 (or u8) [rows, cols/32]
///   nvfp4      values as mxfp4; scales e4m3 (or u8) [rows, cols/16]; global_scale f32 [1], or [2] in one matrix of
///              gate and up rows: that of gate, that of up. It multiplies; checkpoints with its reciprocal are
///              inverted.
struct WeightMatrix {
    WeightSpec spec;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    Tensor values;
    Tensor scales;
    Tensor global_scale = {};  ///< nvfp4 only
};

/// Where the bytes of a packed matrix are. See docs/formats.md for the order inside a tile; `version` changes with it.
/// A packed matrix is a sequence of *strips* of 64 output rows; a strip is a sequence of tiles along k, then (for
/// fp8_block and nvfp4) the strip's f32 scales. Everything a kernel streams for a strip is one contiguous run of bytes.
struct PackedLayout {
    static constexpr int current_version = 1;
    static constexpr std::int64_t tile_rows = 64;

    int version = current_version;
    WeightSpec spec;
    std::int64_t rows = 0;       ///< true rows: 2 * intermediate for gate/up
    std::int64_t cols = 0;       ///< true columns (k)
    bool gate_up = false;        ///< rows interleaved by 8: in each 16, gate rows then the matching up rows
    std::int64_t tile_cols = 0;  ///< k per tile: 64 (4-bit, bf16), 128 (fp8_block, int4_g128)
    std::int64_t strips = 0;     ///< ceil(rows / 64)
    std::int64_t tiles = 0;      ///< k tiles per strip: ceil(cols / tile_cols)
    std::size_t tile_bytes = 0;  ///< multiple of 128
    std::size_t strip_bytes = 0;
    std::size_t matrix_bytes = 0;  ///< strips * strip_bytes, a multiple of 128

    /// Throws `invalid_argument` for sizes below 1, a wrong spec, columns no group divides (4-bit: cols % group),
    /// an odd row count with gate_up, or a size beyond 2^63 bytes. Pure.
    static PackedLayout make(const WeightSpec& spec, std::int64_t rows, std::int64_t cols, bool gate_up);
    friend bool operator==(const PackedLayout&, const PackedLayout&) = default;
};

/// Packs one matrix from checkpoint layout on the CPU. `destination` has layout.matrix_bytes bytes, any content;
/// padding rows and columns are written as zero weights. `order` says how gate and up rows lie in `source`.
/// Thread-safe on different destinations. Throws `invalid_argument` naming what does not match.
void pack(const PackedLayout& layout, const WeightMatrix& source, RowOrder order, std::span<std::byte> destination);
/// Gate and up given as two matrices of `rows / 2` rows each. Otherwise as pack.
void pack_gate_up(const PackedLayout& layout, const WeightMatrix& gate, const WeightMatrix& up,
                  std::span<std::byte> destination);
/// Inverse of pack: bit for bit what `pack` read (fp8_block scales of blocks, int4 words, mxfp4 bytes). Only an mxfp4
/// group whose scale code is 0xFF, which is worth zero, comes back as zero codes with scale code 0. Global scales of
/// gate and up that differ need a `global_scale` of two in `destination`. Threads and errors as for pack.
void unpack(const PackedLayout& layout, std::span<const std::byte> packed, RowOrder order,
            const WeightMatrix& destination);

/// Gate and up into two matrices of `rows / 2` rows each: inverse of pack_gate_up, errors as there.
void unpack_gate_up(const PackedLayout& layout, std::span<const std::byte> packed, const WeightMatrix& gate,
                    const WeightMatrix& up);

/// Decodes `count` weights of packed row `row` (index in *packed* order, 0 .. strips*64-1) from column `col` on.
/// float: code times scale in f32 (nvfp4: then times the global scale, rounded). The exact value for every other format
/// whose product fits in f32. Throws `invalid_argument` for a row, column or size that is not the layout's.
void decode_packed_row(const PackedLayout& layout, std::span<const std::byte> packed, std::int64_t row,
                       std::int64_t col, std::int64_t count, float* out);

/// Position of checkpoint row `row` (gate rows 0..I-1, then up rows I..2I-1 if gate_up) in packed order. Pure.
std::int64_t packed_row(const PackedLayout& layout, std::int64_t row) noexcept;

}  // namespace tokamak
