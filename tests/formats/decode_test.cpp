// SPDX-License-Identifier: Apache-2.0
// Decoded values of every code and every scale, and misuse.
#include "formats/decode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "formats/matrix.h"
#include "formats/scalar.h"
#include "support/expect_error.h"
#include "tokamak/error.h"
#include "tokamak/weight_format.h"

namespace tokamak {
namespace {

using test::expect_error;
using test::HostMatrix;
using test::load;

std::vector<std::byte> packed(const PackedLayout& layout, const WeightMatrix& source) {
    std::vector<std::byte> bytes(layout.matrix_bytes, std::byte{0xA5});
    pack(layout, source, RowOrder::plain, bytes);
    return bytes;
}

float oracle_scale(const HostMatrix& m, std::int64_t row, std::int64_t col) {
    const WeightSpec& spec = m.view().spec;
    switch (spec.format) {
        case WeightFormat::fp8_block: return load<float>(m.scale_row(row / 128) + col / 128 * 4);
        case WeightFormat::mxfp4: return scalar::mxfp4_scale_to_float(m.scale_row(row)[col / 32]);
        case WeightFormat::nvfp4: return scalar::e4m3_to_float(m.scale_row(row)[col / 16]);
        case WeightFormat::int4: {
            const auto bits = load<std::uint16_t>(m.scale_row(row) + col / spec.group_size * 2);
            return spec.scale_dtype == DType::f16 ? scalar::f16_to_float(bits) : scalar::bf16_to_float(bits);
        }
        case WeightFormat::bf16: break;
    }
    return 1.0F;
}

float oracle(const HostMatrix& m, std::int64_t row, std::int64_t col) {
    const float scale = oracle_scale(m, row, col);
    switch (m.view().spec.format) {
        case WeightFormat::bf16: return scalar::bf16_to_float(load<std::uint16_t>(m.value_row(row) + 2 * col));
        case WeightFormat::fp8_block: return scalar::e4m3_to_float(m.value_row(row)[col]) * scale;
        case WeightFormat::int4: return static_cast<float>(m.code4(row, col) - 8) * scale;
        case WeightFormat::mxfp4: return scalar::e2m1_to_float(m.code4(row, col)) * scale;
        case WeightFormat::nvfp4: return scalar::e2m1_to_float(m.code4(row, col)) * scale * m.global_scale();
    }
    return 0.0F;
}

/// What the packed form is worth: packing loses the signs of the zeros in an mxfp4 group of scale code 0xFF.
float packed_oracle(const HostMatrix& m, std::int64_t row, std::int64_t col) {
    const bool dead = m.view().spec.format == WeightFormat::mxfp4 && m.scale_row(row)[col / 32] == 0xFF;
    return dead ? 0.0F : oracle(m, row, col);
}

/// Bit-equal, or both NaN (their payload is free).
void expect_same(float got, float expected, std::int64_t row, std::int64_t col) {
    if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(got)) << "row " << row << " column " << col;
    } else {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected))
            << "row " << row << " column " << col << ": " << got << " instead of " << expected;
    }
}

void check_matrix(const HostMatrix& source) {
    const std::int64_t rows = source.view().rows, cols = source.view().cols;
    const PackedLayout layout = PackedLayout::make(source.view().spec, rows, cols, false);
    const auto bytes = packed(layout, source);
    const std::int64_t wide = layout.tiles * layout.tile_cols + 10;
    std::vector<float> plain(static_cast<std::size_t>(cols)), all(static_cast<std::size_t>(wide));
    for (std::int64_t row = 0; row < layout.strips * 64; ++row) {
        std::fill(all.begin(), all.end(), 123.0F);
        decode_packed_row(layout, bytes, row, 0, wide, all.data());
        if (row < rows) formats::decode_row(source, row, plain.data());
        for (std::int64_t col = 0; col < wide; ++col) {
            const auto index = static_cast<std::size_t>(col);
            if (row >= rows || col >= cols) {
                ASSERT_EQ(all[index], 0.0F) << "padding: row " << row << " column " << col;
                continue;
            }
            expect_same(all[index], packed_oracle(source, row, col), row, col);
            expect_same(plain[index], oracle(source, row, col), row, col);
            if (testing::Test::HasFatalFailure()) return;
        }
    }
    const HostMatrix copy(source.view().spec, rows, cols);
    unpack(layout, bytes, RowOrder::plain, copy);
    source.settle_dead_groups();
    ASSERT_TRUE(source.same_bits(copy));
}

TEST(Decode, RandomBitsOfEveryFormat) {
    for (const WeightSpec& spec : test::all_specs()) {
        SCOPED_TRACE(to_string(spec));
        check_matrix(HostMatrix(spec, 33, spec.group_size == 0 ? 100 : 3 * spec.group_size, 1, 1));
        check_matrix(HostMatrix(spec, 1, spec.group_size == 0 ? 1 : spec.group_size));
        check_matrix(HostMatrix(spec, 65, 384));
    }
}

TEST(Decode, EveryScaleBitPatternOfInt4) {
    for (const DType scales : {DType::bf16, DType::f16}) {
        const WeightSpec spec = WeightSpec::int4(32, scales);
        const HostMatrix source(spec, 64, 1024 * 32);
        for (std::int64_t row = 0; row < 64; ++row)
            for (std::int64_t group = 0; group < 1024; ++group) {
                const auto bits = static_cast<std::uint16_t>(row * 1024 + group);
                std::memcpy(source.scale_row(row) + group * 2, &bits, 2);
            }
        check_matrix(source);
    }
}

TEST(Decode, EveryMxfp4CodeWithEveryScale) {
    const HostMatrix source(WeightSpec::mxfp4(), 16, 256 * 32);
    for (std::int64_t row = 0; row < 16; ++row)
        for (std::int64_t group = 0; group < 256; ++group) {
            source.scale_row(row)[group] = static_cast<std::uint8_t>(group);
            for (std::int64_t i = 0; i < 16; ++i)
                source.value_row(row)[group * 16 + i] = static_cast<std::uint8_t>(i << 4 | ((i + row) & 15));
        }
    check_matrix(source);
}

TEST(Decode, EveryNvfp4CodeWithEveryScale) {
    const HostMatrix source(WeightSpec::nvfp4(), 16, 256 * 16);
    for (std::int64_t row = 0; row < 16; ++row)
        for (std::int64_t group = 0; group < 256; ++group) {
            source.scale_row(row)[group] = static_cast<std::uint8_t>(group);
            for (std::int64_t i = 0; i < 8; ++i)
                source.value_row(row)[group * 8 + i] =
                    static_cast<std::uint8_t>((2 * i + 1) << 4 | ((2 * i + row) & 15));
        }
    check_matrix(source);
}

TEST(Decode, EveryNvfp4CodeTimesItsGroupScaleIsExactIn16Bits) {
    for (int code = 0; code < 16; ++code)
        for (int scale = 0; scale < 256; ++scale) {
            const float product = scalar::e2m1_to_float(static_cast<std::uint8_t>(code)) *
                                  scalar::e4m3_to_float(static_cast<std::uint8_t>(scale));
            if (std::isnan(product)) continue;
            ASSERT_EQ(scalar::round_to_bf16(product), product);
            ASSERT_EQ(scalar::f16_to_float(scalar::float_to_f16(product)), product);
        }
}

TEST(Decode, EveryFp8Code) {
    const HostMatrix source(WeightSpec::fp8_block(), 64, 256);
    for (std::int64_t row = 0; row < 64; ++row)
        for (std::int64_t col = 0; col < 256; ++col) source.value_row(row)[col] = static_cast<std::uint8_t>(col + row);
    check_matrix(source);
}

TEST(Decode, PartsOfARowEqualTheWhole) {
    for (const WeightSpec& spec : test::all_specs()) {
        SCOPED_TRACE(to_string(spec));
        const std::int64_t cols = 384;
        const HostMatrix source(spec, 20, cols);
        const PackedLayout layout = PackedLayout::make(spec, 20, cols, false);
        const auto bytes = packed(layout, source);
        std::vector<float> whole(cols + 40);
        decode_packed_row(layout, bytes, 17, 0, cols + 40, whole.data());
        for (int i = 0; i < 200; ++i) {
            const auto col = static_cast<std::int64_t>(test::random_bits()() % (cols + 20));
            const auto count =
                static_cast<std::int64_t>(test::random_bits()() % static_cast<std::uint64_t>(cols + 40 - col));
            std::vector<float> part(static_cast<std::size_t>(count) + 1, 77.0F);
            decode_packed_row(layout, bytes, 17, col, count, part.data());
            ASSERT_EQ(std::memcmp(part.data(), whole.data() + col, static_cast<std::size_t>(count) * 4), 0);
            ASSERT_EQ(part.back(), 77.0F);
        }
        float untouched = 5.0F;
        decode_packed_row(layout, bytes, 0, std::numeric_limits<std::int64_t>::max(), 0, &untouched);
        EXPECT_EQ(untouched, 5.0F);
    }
}

TEST(WeightSpecText, NamesRoundTrip) {
    const std::vector<std::string> names = {"bf16",         "fp8_block",    "int4_g32",      "int4_g64", "int4_g128",
                                            "int4_g32_f16", "int4_g64_f16", "int4_g128_f16", "mxfp4",    "nvfp4"};
    for (const std::string& name : names) {
        EXPECT_EQ(to_string(parse_weight_spec(name)), name);
        EXPECT_TRUE(valid(parse_weight_spec(name)));
    }
    for (const char* name : {"", "int4", "int4_g16", "bf16_f16", "mxfp4 ", "BF16"})
        expect_error([&] { (void)parse_weight_spec(name); }, "int4_g32", ErrorCode::parse);
}

TEST(WeightSpecText, InvalidCombinationsSayWhy) {
    EXPECT_NE(valid(WeightSpec::int4(48)).reason.find("48"), std::string::npos);
    EXPECT_FALSE(valid(WeightSpec::int4(32, DType::f32)));
    EXPECT_FALSE(valid({WeightFormat::mxfp4, 64, DType::e8m0}));
    EXPECT_FALSE(valid({WeightFormat::mxfp4, 32, DType::bf16}));
    EXPECT_FALSE(valid({WeightFormat::nvfp4, 32, DType::e4m3}));
    EXPECT_FALSE(valid({WeightFormat::nvfp4, 16, DType::e8m0}));
    EXPECT_FALSE(valid({WeightFormat::fp8_block, 64, DType::f32}));
    EXPECT_FALSE(valid({WeightFormat::fp8_block, 128, DType::e8m0}));
    EXPECT_FALSE(valid({WeightFormat::bf16, 32, DType::bf16}));
    EXPECT_FALSE(valid({static_cast<WeightFormat>(77), 0, DType::bf16}));
    EXPECT_TRUE(valid({WeightFormat::bf16, 0, DType::f16}));  // the scale type of bf16 means nothing
}

TEST(Misuse, LayoutsThatCannotBe) {
    const WeightSpec int4 = WeightSpec::int4(32);
    constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
    expect_error([&] { (void)PackedLayout::make(int4, 0, 64, false); }, "`rows` is 0");
    expect_error([&] { (void)PackedLayout::make(int4, 64, -5, false); }, "`cols` is -5");
    expect_error([&] { (void)PackedLayout::make(int4, 33, 64, true); }, "33");
    expect_error([&] { (void)PackedLayout::make(int4, 64, 48, false); }, "48");
    expect_error([&] { (void)PackedLayout::make(WeightSpec::int4(128), 64, 192, false); }, "192");
    expect_error([&] { (void)PackedLayout::make(WeightSpec::int4(7), 64, 64, false); }, "group size 7");
    expect_error([&] { (void)PackedLayout::make(int4, huge, 1 << 20, false); }, "2^63");
    for (const WeightSpec& spec : test::all_specs())
        expect_error([&] { (void)PackedLayout::make(spec, 64, huge / 128 * 128, false); }, "2^63");
}

TEST(Misuse, PackRefusesWhatDoesNotMatchAndWritesNothing) {
    const WeightSpec spec = WeightSpec::int4(32);
    const PackedLayout layout = PackedLayout::make(spec, 64, 128, false);
    const HostMatrix good(spec, 64, 128);
    std::vector<std::byte> bytes(layout.matrix_bytes, std::byte{0x11});
    const auto refuse = [&](const WeightMatrix& source, const std::string& text) {
        expect_error([&] { pack(layout, source, RowOrder::plain, bytes); }, text);
    };
    refuse(HostMatrix(spec, 63, 128), "[63, 128], expected [64, 128]");
    refuse(HostMatrix(WeightSpec::int4(64), 64, 128), "int4_g64, expected int4_g32");
    refuse(HostMatrix(WeightSpec::int4(32, DType::f16), 64, 128), "int4_g32_f16");
    WeightMatrix bad = good;
    bad.values.dtype = DType::u8;
    refuse(bad, "`source.values` has dtype u8, expected i32");
    bad = good;
    bad.scales = {};
    refuse(bad, "`source.scales` is absent");
    bad = good;
    bad.values.strides[1] = 2;
    refuse(bad, "strides");
    bad = good;
    bad.values.data = nullptr;
    refuse(bad, "null");
    bad = good;
    bad.scales.device = Device::cuda(0);
    refuse(bad, "cuda");
    const HostMatrix bf16(WeightSpec::bf16(), 64, 64);
    bad = bf16;
    bad.scales = good.view().scales;
    const PackedLayout bf16_layout = PackedLayout::make(WeightSpec::bf16(), 64, 64, false);
    std::vector<std::byte> other(bf16_layout.matrix_bytes);
    expect_error([&] { pack(bf16_layout, bad, RowOrder::plain, other); }, "must be absent");
    expect_error([&] { pack(layout, good, RowOrder::gate_up_interleaved, bytes); }, "`order` is gate_up_interleaved");
    expect_error([&] { pack(layout, good, static_cast<RowOrder>(9), bytes); }, "`order`");
    expect_error([&] { pack(layout, good, RowOrder::plain, std::span(bytes).first(100)); }, "100 bytes");
    expect_error([&] { pack_gate_up(layout, good, good, bytes); }, "gate/up");
    PackedLayout odd = layout;
    odd.version = 2;
    expect_error([&] { pack(odd, good, RowOrder::plain, bytes); }, "version 2");
    odd = layout;
    odd.tile_bytes = 64;
    expect_error([&] { pack(odd, good, RowOrder::plain, bytes); }, "`layout`");
    EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0x11}; }));
}

TEST(Misuse, GlobalScalesBelongToNvfp4) {
    const HostMatrix nvfp4(WeightSpec::nvfp4(), 64, 64), mxfp4(WeightSpec::mxfp4(), 64, 64);
    const PackedLayout plain = PackedLayout::make(WeightSpec::nvfp4(), 64, 64, false);
    std::vector<std::byte> bytes(plain.matrix_bytes);
    const auto refuse = [&](const PackedLayout& layout, const WeightMatrix& source, const std::string& text) {
        expect_error([&] { pack(layout, source, RowOrder::plain, std::span(bytes).first(layout.matrix_bytes)); }, text);
    };
    WeightMatrix bad = nvfp4;
    bad.global_scale = {};
    refuse(plain, bad, "`source.global_scale` is absent");
    bad.global_scale = Tensor(nvfp4.view().global_scale.data, DType::f32, {2});
    refuse(plain, bad, "[1]");
    bad.global_scale = Tensor(nvfp4.view().global_scale.data, DType::i32, {1});
    refuse(plain, bad, "dtype i32, expected f32");
    bad = mxfp4;
    bad.global_scale = nvfp4.view().global_scale;
    refuse(PackedLayout::make(WeightSpec::mxfp4(), 64, 64, false), bad, "must be absent with other weights than nvfp4");
    std::vector<float> out(64);
    bad = nvfp4;
    bad.global_scale.shape[0] = 2;
    expect_error([&] { formats::decode_row(bad, 0, out.data()); }, "`matrix.global_scale`");
}

TEST(Misuse, DifferingGlobalScalesOfGateAndUpDoNotFitIntoOne) {
    HostMatrix source(WeightSpec::nvfp4(), 64, 64);
    source.separate_global_scales();
    const float scales[] = {2.0F, 3.0F};
    std::memcpy(source.view().global_scale.data, scales, sizeof scales);
    const PackedLayout layout = PackedLayout::make(WeightSpec::nvfp4(), 64, 64, true);
    std::vector<std::byte> bytes(layout.matrix_bytes);
    pack(layout, source, RowOrder::gate_up_interleaved, bytes);
    const HostMatrix one(WeightSpec::nvfp4(), 64, 64);
    const auto before = load<std::uint64_t>(one.value_row(0));
    expect_error([&] { unpack(layout, bytes, RowOrder::gate_up_interleaved, one); }, "those of gate and up differ");
    EXPECT_EQ(load<std::uint64_t>(one.value_row(0)), before);
    HostMatrix two(WeightSpec::nvfp4(), 64, 64);
    two.separate_global_scales();
    unpack(layout, bytes, RowOrder::gate_up_interleaved, two);
    EXPECT_TRUE(source.same_bits(two));
}

TEST(Misuse, Fp8GateAndUpInOneMatrixNeedWholeBlocks) {
    const WeightSpec spec = WeightSpec::fp8_block();
    const PackedLayout partial = PackedLayout::make(spec, 2 * 96, 128, true);
    std::vector<std::byte> bytes(partial.matrix_bytes);
    const HostMatrix source(spec, 2 * 96, 128);
    expect_error([&] { pack(partial, source, RowOrder::gate_up_concatenated, bytes); }, "96 gate rows");
    const PackedLayout whole = PackedLayout::make(spec, 2 * 128, 128, true);
    bytes.resize(whole.matrix_bytes);
    const HostMatrix fits(spec, 2 * 128, 128);
    expect_error([&] { pack(whole, fits, RowOrder::gate_up_interleaved, bytes); }, "interleaved");
    expect_error([&] { pack(whole, fits, RowOrder::plain, bytes); }, "`order` is plain");
    pack(whole, fits, RowOrder::gate_up_concatenated, bytes);
    expect_error(
        [&] { unpack(partial, std::span(bytes).first(partial.matrix_bytes), RowOrder::gate_up_concatenated, source); },
        "96 gate rows");
}

TEST(Misuse, RowsOutsideAreRefused) {
    const WeightSpec spec = WeightSpec::mxfp4();
    const PackedLayout layout = PackedLayout::make(spec, 33, 96, false);
    const HostMatrix source(spec, 33, 96);
    const auto bytes = packed(layout, source);
    std::vector<float> out(96);
    expect_error([&] { decode_packed_row(layout, bytes, 64, 0, 1, out.data()); }, "`row` is 64, expected 0 to 63");
    expect_error([&] { decode_packed_row(layout, bytes, -1, 0, 1, out.data()); }, "`row` is -1");
    expect_error([&] { decode_packed_row(layout, bytes, 0, -1, 1, out.data()); }, "`col` is -1");
    expect_error([&] { decode_packed_row(layout, bytes, 0, 0, -1, out.data()); }, "`count` is -1");
    expect_error([&] { decode_packed_row(layout, std::span(bytes).first(7), 0, 0, 1, out.data()); }, "7 bytes");
    expect_error([&] { formats::decode_row(source, 33, out.data()); }, "`row` is 33");
}

}  // namespace
}  // namespace tokamak
