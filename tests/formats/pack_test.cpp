// SPDX-License-Identifier: Apache-2.0
// The packed layout against the formulas of docs/formats.md, byte by byte, and round trips.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "formats/decode.h"
#include "formats/matrix.h"
#include "formats/scalar.h"
#include "tokamak/error.h"
#include "tokamak/weight_format.h"

namespace tokamak {
namespace {

using test::HostMatrix;
using test::load;

std::vector<std::byte> packed(const PackedLayout& layout, const WeightMatrix& source, RowOrder order) {
    std::vector<std::byte> bytes(layout.matrix_bytes, std::byte{0xA5});
    pack(layout, source, order, bytes);
    return bytes;
}

/// Checkpoint row that packed row `r` shows, -1 for padding.
std::int64_t source_row(const PackedLayout& layout, std::int64_t r, RowOrder order) {
    if (!layout.gate_up) return r < layout.rows ? r : -1;
    const std::int64_t strip = r / 64, slab = r % 64 / 16, j = r % 16, half = layout.rows / 2;
    const std::int64_t i = strip * 32 + slab * 8 + j % 8;
    if (i >= half) return -1;
    if (order == RowOrder::gate_up_interleaved) return 2 * i + (j < 8 ? 0 : 1);
    return j < 8 ? i : half + i;
}

bool is_4bit(const WeightSpec& spec) {
    return spec.format != WeightFormat::bf16 && spec.format != WeightFormat::fp8_block;
}

/// The pair as the kernel extracts it from an mxfp4 or nvfp4 word.
std::uint32_t mxfp4_pair(std::uint32_t x, int pair) {
    switch (pair) {
        case 0: return x & 0x81C081C0U;
        case 1: return (x << 6) & 0x81C081C0U;
        case 2: return (x << 10 | x >> 22) & 0x81C081C0U;
        default: return ((x << 4) & 0x81808180U) | ((x >> 4) & 0x00400040U);
    }
}

/// Checks one code of a 4-bit matrix where the formulas put it.
void expect_code(const PackedLayout& layout, const std::byte* bytes, std::int64_t r, std::int64_t k,
                 std::uint8_t code) {
    const std::byte* tile = bytes + (r / 64) * static_cast<std::int64_t>(layout.strip_bytes) +
                            k / layout.tile_cols * static_cast<std::int64_t>(layout.tile_bytes);
    const std::int64_t block = k % layout.tile_cols / 64, slab = r % 64 / 16, step = k % 64 / 16;
    const std::int64_t g = r % 8, t = k % 8 / 2, lane = 4 * g + t;
    const int pair = static_cast<int>((k % 16 >= 8 ? 2 : 0) + (r % 16 >= 8 ? 1 : 0));
    const auto word = load<std::uint32_t>(tile + block * 2048 + slab * 512 + lane * 16 + step * 4);
    const bool second = k % 2 == 1;
    if (layout.spec.format == WeightFormat::int4) {
        const std::uint32_t both = (word >> (4 * pair)) & 0x000F000FU;
        ASSERT_EQ(second ? both >> 16 : both & 0xFFFFU, code) << "row " << r << " column " << k;
    } else {
        const std::uint32_t both = mxfp4_pair(word, pair);
        const auto bits = static_cast<std::uint16_t>(second ? both >> 16 : both & 0xFFFFU);
        ASSERT_EQ(bits, (code & 8U) << 12 | (code & 7U) << 6) << "row " << r << " column " << k;
        ASSERT_EQ(scalar::bf16_to_float(bits) * 0x1p126F, scalar::e2m1_to_float(code));
    }
}

/// Byte of the scale of packed row r, group `group` of the row.
const std::byte* scale_at(const PackedLayout& layout, const std::byte* bytes, std::int64_t r, std::int64_t group) {
    const std::int64_t groups = layout.tile_cols / layout.spec.group_size;
    const auto size = static_cast<std::int64_t>(size_of(layout.spec.scale_dtype));
    const std::byte* tile = bytes + (r / 64) * static_cast<std::int64_t>(layout.strip_bytes) +
                            group / groups * static_cast<std::int64_t>(layout.tile_bytes);
    const std::int64_t per_g = groups * 2 * size;
    return tile + 32 * layout.tile_cols + (r % 64 / 16 * 8 + r % 8) * per_g + group % groups * 2 * size +
           (r % 16 >= 8 ? size : 0);
}

void check_4bit(const WeightSpec& spec, std::int64_t rows, std::int64_t cols, RowOrder order) {
    const PackedLayout layout = PackedLayout::make(spec, rows, cols, order != RowOrder::plain);
    const HostMatrix source(spec, rows, cols, 3, 1);
    const auto bytes = packed(layout, source, order);
    source.settle_dead_groups();
    const auto size = static_cast<std::int64_t>(size_of(spec.scale_dtype));
    const std::uint8_t pad = spec.format == WeightFormat::int4 ? 8 : 0;
    for (std::int64_t r = 0; r < layout.strips * 64; ++r) {
        const std::int64_t from = source_row(layout, r, order);
        for (std::int64_t k = 0; k < layout.tiles * layout.tile_cols; ++k) {
            expect_code(layout, bytes.data(), r, k, from >= 0 && k < cols ? source.code4(from, k) : pad);
            if (testing::Test::HasFatalFailure()) return;
        }
        for (std::int64_t group = 0; group < layout.tiles * layout.tile_cols / spec.group_size; ++group)
            for (std::int64_t i = 0; i < size; ++i) {
                const bool real = from >= 0 && group * spec.group_size < cols;
                ASSERT_EQ(std::to_integer<int>(scale_at(layout, bytes.data(), r, group)[i]),
                          real ? source.scale_row(from)[group * size + i] : 0);
            }
    }
}

TEST(PackedLayout, FourBitCodesAndScalesAreWhereTheFormulasSay) {
    for (const WeightSpec& spec : test::all_specs()) {
        if (!is_4bit(spec)) continue;
        SCOPED_TRACE(to_string(spec));
        const std::int64_t odd = 3 * spec.group_size;
        check_4bit(spec, 33, odd, RowOrder::plain);
        check_4bit(spec, 1, spec.group_size, RowOrder::plain);
        check_4bit(spec, 2 * 37, odd, RowOrder::gate_up_concatenated);
        check_4bit(spec, 2 * 37, 256, RowOrder::gate_up_interleaved);
    }
}

void check_bytes(const WeightSpec& spec, std::int64_t rows, std::int64_t cols, RowOrder order) {
    const PackedLayout layout = PackedLayout::make(spec, rows, cols, order != RowOrder::plain);
    const HostMatrix source(spec, rows, cols, 5, 1);
    const auto bytes = packed(layout, source, order);
    const std::int64_t element = spec.format == WeightFormat::bf16 ? 2 : 1;
    for (std::int64_t r = 0; r < layout.strips * 64; ++r) {
        const std::int64_t from = source_row(layout, r, order), row = r % 64;
        for (std::int64_t b = 0; b < layout.tiles * 128; ++b) {
            const std::int64_t at = r / 64 * static_cast<std::int64_t>(layout.strip_bytes) + b / 128 * 8192 +
                                    row * 128 + ((b % 128) ^ ((row & 7) << 4));
            ASSERT_EQ(std::to_integer<int>(bytes[static_cast<std::size_t>(at)]),
                      from >= 0 && b < cols * element ? source.value_row(from)[b] : 0)
                << "row " << r << " byte " << b;
        }
        if (spec.format != WeightFormat::fp8_block) continue;
        for (std::int64_t tile = 0; tile < layout.tiles; ++tile) {
            const std::int64_t at =
                r / 64 * static_cast<std::int64_t>(layout.strip_bytes) + layout.tiles * 8192 + tile * 8 + (row & 8) / 2;
            const std::int64_t block =
                from >= 0 ? from / 128 : source_row(layout, r / 64 * 64 + (row & 8), order) / 128;
            if (from < 0 && source_row(layout, r / 64 * 64 + (row & 8), order) < 0) continue;
            ASSERT_EQ(load<std::uint32_t>(bytes.data() + at), load<std::uint32_t>(source.scale_row(block) + tile * 4));
        }
    }
}

TEST(PackedLayout, GlobalScalesEndEveryStrip) {
    const WeightSpec spec = WeightSpec::nvfp4();
    const auto check = [&](HostMatrix& source, RowOrder order, float first, float second) {
        const WeightMatrix& matrix = source.view();
        const PackedLayout layout = PackedLayout::make(spec, matrix.rows, matrix.cols, order != RowOrder::plain);
        const auto bytes = packed(layout, source, order);
        ASSERT_EQ(layout.strips, 2);
        for (std::size_t strip = 0; strip < 2; ++strip) {
            const std::byte* end = bytes.data() + strip * layout.strip_bytes + 3 * 2304;
            EXPECT_EQ(load<float>(end), first);
            EXPECT_EQ(load<float>(end + 4), second);
            EXPECT_TRUE(std::all_of(end + 8, end + 128, [](std::byte b) { return b == std::byte{0}; }));
        }
    };
    HostMatrix plain(spec, 70, 144);
    check(plain, RowOrder::plain, plain.global_scale(), plain.global_scale());
    HostMatrix pair(spec, 70, 144);
    check(pair, RowOrder::gate_up_interleaved, pair.global_scale(), pair.global_scale());
    pair.separate_global_scales();
    check(pair, RowOrder::gate_up_concatenated, pair.global_scale(0), pair.global_scale(1));
    check(pair, RowOrder::gate_up_interleaved, pair.global_scale(0), pair.global_scale(1));
}

TEST(PackedLayout, ByteTilesAreSwizzledWhereTheFormulasSay) {
    check_bytes(WeightSpec::bf16(), 33, 96, RowOrder::plain);
    check_bytes(WeightSpec::bf16(), 1, 1, RowOrder::plain);
    check_bytes(WeightSpec::bf16(), 2 * 33, 65, RowOrder::gate_up_concatenated);
    check_bytes(WeightSpec::bf16(), 2 * 33, 64, RowOrder::gate_up_interleaved);
    check_bytes(WeightSpec::fp8_block(), 33, 96, RowOrder::plain);
    check_bytes(WeightSpec::fp8_block(), 1, 1, RowOrder::plain);
    check_bytes(WeightSpec::fp8_block(), 200, 704, RowOrder::plain);
    check_bytes(WeightSpec::fp8_block(), 2 * 128, 300, RowOrder::gate_up_concatenated);
}

TEST(PackedLayout, SizesOfTiles) {
    const auto tile = [](const WeightSpec& spec) { return PackedLayout::make(spec, 64, 128, false); };
    EXPECT_EQ(tile(WeightSpec::int4(32)).tile_bytes, 2304U);
    EXPECT_EQ(tile(WeightSpec::int4(64)).tile_bytes, 2176U);
    EXPECT_EQ(tile(WeightSpec::int4(128)).tile_bytes, 4224U);
    EXPECT_EQ(tile(WeightSpec::mxfp4()).tile_bytes, 2176U);
    EXPECT_EQ(tile(WeightSpec::nvfp4()).tile_bytes, 2304U);
    EXPECT_EQ(tile(WeightSpec::nvfp4()).strip_bytes, 2U * 2304U + 128U);
    EXPECT_EQ(tile(WeightSpec::bf16()).tile_bytes, 8192U);
    EXPECT_EQ(tile(WeightSpec::fp8_block()).strip_bytes, 8192U + 128U);
    const PackedLayout gpt_oss = PackedLayout::make(WeightSpec::mxfp4(), 5760, 2880, true);
    EXPECT_EQ(gpt_oss.strips, 90);
    EXPECT_EQ(gpt_oss.tiles, 45);
    EXPECT_EQ(gpt_oss.matrix_bytes, 90U * 45U * 2176U);
    EXPECT_EQ(PackedLayout::make(WeightSpec::fp8_block(), 66, 129 * 17, true).strip_bytes, 18U * 8192U + 256U);
}

TEST(PackedLayout, PackedRowAgreesWithTheInverseFormula) {
    for (const std::int64_t half : {1, 8, 31, 32, 33, 100}) {
        const PackedLayout layout = PackedLayout::make(WeightSpec::bf16(), 2 * half, 8, true);
        for (std::int64_t row = 0; row < 2 * half; ++row)
            ASSERT_EQ(source_row(layout, packed_row(layout, row), RowOrder::gate_up_concatenated), row);
    }
    const PackedLayout plain = PackedLayout::make(WeightSpec::bf16(), 70, 8, false);
    for (std::int64_t row = 0; row < 70; ++row) ASSERT_EQ(packed_row(plain, row), row);
}

struct Case {
    std::int64_t rows, cols;
    RowOrder order;
};

const std::array<Case, 9> kCases = {{{33, 96, RowOrder::plain},
                                     {1, 64, RowOrder::plain},
                                     {64, 2880, RowOrder::plain},
                                     {130, 704, RowOrder::plain},
                                     {2, 128, RowOrder::gate_up_concatenated},
                                     {2 * 33, 96, RowOrder::gate_up_concatenated},
                                     {2 * 128, 2880, RowOrder::gate_up_concatenated},
                                     {2 * 33, 704, RowOrder::gate_up_interleaved},
                                     {2 * 64, 128, RowOrder::gate_up_interleaved}}};

bool fits(const WeightSpec& spec, const Case& c) {
    if (is_4bit(spec)) return c.cols % spec.group_size == 0;
    if (spec.format == WeightFormat::bf16 || c.order == RowOrder::plain) return true;
    return c.order == RowOrder::gate_up_concatenated && c.rows / 2 % 128 == 0;
}

TEST(Pack, UnpackGivesTheSameBits) {
    for (const WeightSpec& spec : test::all_specs())
        for (const Case& c : kCases) {
            if (!fits(spec, c)) continue;
            SCOPED_TRACE(to_string(spec) + " " + std::to_string(c.rows) + " x " + std::to_string(c.cols));
            const PackedLayout layout = PackedLayout::make(spec, c.rows, c.cols, c.order != RowOrder::plain);
            const HostMatrix source(spec, c.rows, c.cols, 7, 1);
            const HostMatrix target(spec, c.rows, c.cols, 2, 1);
            const auto bytes = packed(layout, source, c.order);
            unpack(layout, bytes, c.order, target);
            source.settle_dead_groups();
            EXPECT_TRUE(source.same_bits(target));
        }
}

TEST(Pack, UnpackWritesNothingBetweenRows) {
    const WeightSpec spec = WeightSpec::int4(32);
    const PackedLayout layout = PackedLayout::make(spec, 5, 96, false);
    const HostMatrix source(spec, 5, 96);
    const HostMatrix target(spec, 5, 96, 1);
    std::vector<std::uint32_t> gaps;
    for (std::int64_t row = 0; row < 5; ++row) gaps.push_back(load<std::uint32_t>(target.value_row(row) + 48));
    unpack(layout, packed(layout, source, RowOrder::plain), RowOrder::plain, target);
    for (std::int64_t row = 0; row < 5; ++row)
        EXPECT_EQ(load<std::uint32_t>(target.value_row(row) + 48), gaps[static_cast<std::size_t>(row)]);
}

TEST(Pack, SeparateGateAndUpEqualTheConcatenation) {
    for (const WeightSpec& spec : test::all_specs()) {
        SCOPED_TRACE(to_string(spec));
        HostMatrix both(spec, 256, 384);
        WeightMatrix gate = both.view(), up = both.view();
        gate.rows = up.rows = 128;
        gate.values = both.view().values.first_rows(128);
        up.values = gate.values;
        up.values.data = both.value_row(128);
        if (both.view().scales) {
            const std::int64_t rows = spec.format == WeightFormat::fp8_block ? 1 : 128;
            gate.scales = both.view().scales.first_rows(rows);
            up.scales = gate.scales;
            up.scales.data = both.scale_row(rows);
        }
        if (spec.format == WeightFormat::nvfp4) {
            both.separate_global_scales();
            up.global_scale.data = both.view().global_scale.as<float>() + 1;
        }
        const PackedLayout layout = PackedLayout::make(spec, 256, 384, true);
        std::vector<std::byte> bytes(layout.matrix_bytes, std::byte{0x5A});
        pack_gate_up(layout, gate, up, bytes);
        EXPECT_EQ(bytes, packed(layout, both, RowOrder::gate_up_concatenated));
    }
}

TEST(Pack, Fp8GateAndUpWithPartialBlocksKeepTheirScales) {
    const WeightSpec spec = WeightSpec::fp8_block();
    const std::int64_t half = 161, cols = 200;  // two blocks of rows each, the second partial
    const HostMatrix gate(spec, half, cols), up(spec, half, cols);
    const PackedLayout layout = PackedLayout::make(spec, 2 * half, cols, true);
    std::vector<std::byte> bytes(layout.matrix_bytes, std::byte{0x5A});
    pack_gate_up(layout, gate, up, bytes);
    std::vector<float> expected(cols), got(cols);
    for (std::int64_t row = 0; row < 2 * half; ++row) {
        const HostMatrix& from = row < half ? gate : up;
        formats::decode_row(from, row % half, expected.data());
        decode_packed_row(layout, bytes, packed_row(layout, row), 0, cols, got.data());
        for (std::size_t col = 0; col < expected.size(); ++col)
            ASSERT_TRUE(got[col] == expected[col] || (std::isnan(got[col]) && std::isnan(expected[col]))) << row;
    }
}

}  // namespace
}  // namespace tokamak
