// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "formats/kv_cache_fixture.h"

namespace tokamak::test {
namespace {

using naive::kInfinity;

bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

std::vector<float> decode(const KvCache& cache, std::int64_t slot) {
    std::vector<float> out(static_cast<std::size_t>(cache.dim), -77.0F);
    decode_kv_row(cache, slot, out.data());
    return out;
}

void expect_row_decodes(const KvCache& cache, std::int64_t slot) {
    const std::vector<float> got = decode(cache, slot);
    const std::vector<double> want = naive::kv_row(cache, slot / cache.page_size, slot % cache.page_size);
    for (std::size_t d = 0; d < want.size(); ++d) {
        const double expected = naive::as_f32(want[d]);
        ASSERT_TRUE(same(static_cast<double>(got[d]), expected))
            << to_string(cache.format) << " slot " << slot << " element " << d << " is " << got[d] << ", expected "
            << expected;
    }
}

void randomise(Argument& argument, std::mt19937& random) {
    for (std::int64_t p = 0; argument.host().present && p < argument.host().shape[0]; ++p) {
        const Tensor page = argument.host().at(p);
        for (std::size_t i = 0; i < page.bytes(); ++i) page.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(random());
    }
}

// Random bytes are all codes, NaN and infinities included.
TEST(KvRow, RandomBytesDecodeByTheDefinitionInEveryFormat) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    for (const KvFormat format : kAllKvFormats) {
        for (const std::int64_t page_size : {1, 2, 53}) {
            CacheFixture fixture(format, a_dim(format), 3, page_size, 24);
            randomise(fixture.values, random);
            randomise(fixture.scales, random);
            for (std::int64_t slot = 0; slot < 3 * page_size; ++slot) expect_row_decodes(fixture.cache(), slot);
        }
    }
}

TEST(KvRow, EveryFp8CodeWithEveryScaleByte) {
    for (const KvFormat format : {KvFormat::fp8_584, KvFormat::fp8_split}) {
        CacheFixture fixture(format, 512, 1, 4);
        auto* const values = fixture.values.host().as<std::uint8_t>();
        auto* const scales = format == KvFormat::fp8_584 ? values + 4 * 576 : fixture.scales.host().as<std::uint8_t>();
        std::memset(values, 0, 4 * 576);
        for (int scale = 0; scale < 256; ++scale) {
            std::memset(scales, scale, 4 * 8);
            for (int code = 0; code < 256; ++code) values[code % 4 * 576 + code / 4] = static_cast<std::uint8_t>(code);
            for (std::int64_t slot = 0; slot < 4; ++slot) expect_row_decodes(fixture.cache(), slot);
        }
    }
}

TEST(KvRow, ScaleByte255IsInfinityAndNanCodesAreNan) {
    CacheFixture fixture(KvFormat::fp8_split, 512, 1, 1);
    std::memset(fixture.values.host().data, 0x38, 576);  // 1.0
    std::memset(fixture.scales.host().data, 127, 8);
    fixture.scales.at<std::uint8_t>(0, 0, 1) = 255;
    fixture.values.at<std::uint8_t>(0, 0, 3) = 0x7F;
    fixture.values.at<std::uint8_t>(0, 0, 4) = 0xFF;
    const std::vector<float> row = decode(fixture.cache(), 0);
    EXPECT_EQ(row[0], 1.0F);
    EXPECT_TRUE(std::isnan(row[3]));
    EXPECT_TRUE(std::isnan(row[4]));
    EXPECT_EQ(row[64], std::numeric_limits<float>::infinity());
}

TEST(KvRow, EveryMxfp4CodeWithEveryScaleByte) {
    CacheFixture fixture(KvFormat::mxfp4, 512, 1, 1);
    for (int code = 0; code < 256; ++code)
        fixture.values.at<std::uint8_t>(0, 0, code) = static_cast<std::uint8_t>(code);
    for (int scale = 0; scale < 256; ++scale) {
        std::memset(fixture.scales.host().data, scale, 16);
        expect_row_decodes(fixture.cache(), 0);
    }
}

TEST(KvRow, EveryBf16Value) {
    CacheFixture fixture(KvFormat::bf16, 1024, 64, 1);
    for (int bits = 0; bits < 65536; ++bits)
        fixture.values.at<std::uint16_t>(bits / 1024, 0, bits % 1024) = static_cast<std::uint16_t>(bits);
    for (std::int64_t slot = 0; slot < 64; ++slot) expect_row_decodes(fixture.cache(), slot);
}

TEST(KvRow, Fp8_656TakesAnyF32Scale) {
    CacheFixture fixture(KvFormat::fp8_656, 576, 1, 1);
    for (const float scale : {1.0F, 0.0F, -0.75F, 1.0F / 3.0F, 1e-38F, 1e38F, std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::quiet_NaN()}) {
        for (int g = 0; g < 4; ++g) std::memcpy(fixture.values.host().as<std::byte>() + 512 + g * 4, &scale, 4);
        for (int code = 0; code < 512; ++code)
            fixture.values.at<std::uint8_t>(0, 0, code) = static_cast<std::uint8_t>(code);
        for (int d = 528; d < 656; ++d) fixture.values.at<std::uint8_t>(0, 0, d) = static_cast<std::uint8_t>(d);
        expect_row_decodes(fixture.cache(), 0);
    }
}

std::vector<float> random_row(std::int64_t dim, double magnitude, std::mt19937& random) {
    std::normal_distribution<double> normal(0, magnitude);
    std::vector<float> row(static_cast<std::size_t>(dim));
    for (float& value : row) value = static_cast<float>(normal(random));
    return row;
}

void expect_fp8_group(const KvCache& cache, const float* values, int first, int count, bool exact,
                      const std::uint8_t* codes, double stored_scale) {
    const float scale = naive::fp8_scale(values + first, count, exact);
    EXPECT_EQ(stored_scale, static_cast<double>(scale)) << to_string(cache.format) << " group at " << first;
    for (int d = first; d < first + count; ++d) {
        const double value = naive::clamp_finite(static_cast<double>(values[d] / scale), 448);
        const std::uint8_t sign = std::signbit(values[d]) ? 0x80 : 0;
        const std::uint8_t want = std::isnan(values[d])
                                      ? static_cast<std::uint8_t>(sign | 0x7F)
                                      : naive::nearest(value, 0x80, [](std::uint8_t c) {
                                            const double decoded = naive::e4m3(c);
                                            return std::isnan(decoded) ? 1e30 : decoded;  // never the nearest
                                        });
        EXPECT_EQ(int{codes[d]}, int{want}) << to_string(cache.format) << " element " << d << " = " << values[d];
    }
}

void expect_encoded(const CacheFixture& fixture, std::int64_t slot, const std::vector<float>& values, KvScale rule) {
    const KvCache cache = fixture.cache();
    const std::int64_t page = slot / cache.page_size;
    const std::int64_t row = slot % cache.page_size;
    const auto* const page_bytes = static_cast<const std::uint8_t*>(cache.values.at(page).data);
    const auto* const scale_bytes =
        cache.scales.present ? static_cast<const std::uint8_t*>(cache.scales.at(page).data) : nullptr;
    std::int64_t latent = 0;
    if (cache.format == KvFormat::fp8_656) {
        latent = 512;
        for (int g = 0; g < 4; ++g)
            expect_fp8_group(cache, values.data(), g * 128, 128, rule == KvScale::exact, page_bytes + row * 656,
                             static_cast<double>(naive::read<float>(page_bytes, row * 656 + 512 + g * 4)));
    } else if (cache.format == KvFormat::fp8_584 || cache.format == KvFormat::fp8_split) {
        latent = 448;
        const std::uint8_t* const scales =
            (scale_bytes != nullptr ? scale_bytes : page_bytes + cache.page_size * 576) + row * 8;
        for (int g = 0; g < 7; ++g)
            expect_fp8_group(cache, values.data(), g * 64, 64, false, page_bytes + row * 576,
                             std::ldexp(1.0, scales[g] - 127));
        EXPECT_EQ(int{scales[7]}, 0) << "pad byte";
    } else if (cache.format == KvFormat::mxfp4) {
        for (int d = 0; d < cache.dim; ++d) {
            const int exponent = naive::mxfp4_exponent(values.data() + d / 32 * 32, 32);
            EXPECT_EQ(int{scale_bytes[row * (cache.dim / 32) + d / 32]}, exponent + 127);
            const std::uint8_t pair = page_bytes[row * (cache.dim / 2) + d / 2];
            const double scaled = std::ldexp(static_cast<double>(values[static_cast<std::size_t>(d)]), -exponent);
            const std::uint8_t want = naive::nearest(naive::clamp_finite(scaled, 6), 8, naive::e2m1);
            EXPECT_EQ(d % 2 == 0 ? pair & 15 : pair >> 4, int{want}) << "element " << d << " = " << scaled;
        }
        return;
    }
    // What is left is bf16 (or f32): the nearest value of that type.
    const std::vector<float> got = decode(cache, slot);
    for (std::size_t d = static_cast<std::size_t>(latent); d < values.size(); ++d)
        EXPECT_LE(std::fabs(static_cast<double>(got[d]) - static_cast<double>(values[d])),
                  std::fabs(static_cast<double>(values[d])) * (cache.format == KvFormat::f32 ? 0 : 0x1p-8));
}

TEST(KvRow, EncodesByTheWritersRule) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    for (const KvFormat format : kAllKvFormats) {
        for (const KvScale rule : {KvScale::power_of_two, KvScale::exact}) {
            if (rule == KvScale::exact && format != KvFormat::fp8_656) continue;
            for (const double magnitude : {1.0, 1e-6, 3e4, 0.0}) {
                CacheFixture fixture(format, a_dim(format), 2, 5);
                const std::vector<float> row = random_row(fixture.dim, magnitude, random);
                encode_kv_row(fixture.cache(), 7, row.data(), rule);
                expect_encoded(fixture, 7, row, rule);
            }
        }
    }
}

TEST(KvRow, LargestMagnitudeAtAPowerOfTwoDoesNotSaturate) {
    CacheFixture fixture(KvFormat::fp8_split, 512, 1, 1);
    for (const float amax : {448.0F, std::nextafterf(448.0F, 500.0F), 447.99997F, 896.0F, 1e-4F, 1e-9F}) {
        std::vector<float> row(512, amax);
        encode_kv_row(fixture.cache(), 0, row.data());
        expect_encoded(fixture, 0, row, KvScale::power_of_two);
        if (amax > 1e-3F) {
            EXPECT_LE(std::fabs(decode(fixture.cache(), 0)[5] - amax), amax / 16);
        }
    }
}

TEST(KvRow, NanStaysNanInfinitySaturatesAndNeitherSpoilsTheGroup) {
    for (const KvFormat format : {KvFormat::fp8_656, KvFormat::fp8_584, KvFormat::fp8_split}) {
        CacheFixture fixture(format, a_dim(format), 1, 1);
        std::vector<float> row(static_cast<std::size_t>(fixture.dim), 1.0F);
        row[3] = std::numeric_limits<float>::quiet_NaN();
        row[4] = std::numeric_limits<float>::infinity();
        row[5] = -std::numeric_limits<float>::infinity();
        encode_kv_row(fixture.cache(), 0, row.data());
        const std::vector<float> back = decode(fixture.cache(), 0);
        const float largest = 448 * naive::fp8_scale(row.data(), 64, false);
        EXPECT_TRUE(std::isnan(back[3]));
        EXPECT_EQ(back[4], largest);
        EXPECT_EQ(back[5], -largest);
        EXPECT_EQ(back[0], 1.0F);
    }
}

TEST(KvRow, Mxfp4NanBecomesZeroAndInfinitySaturates) {
    CacheFixture fixture(KvFormat::mxfp4, 64, 1, 1);
    std::vector<float> row(64, 1.0F);
    row[0] = std::numeric_limits<float>::quiet_NaN();
    row[1] = -std::numeric_limits<float>::infinity();
    encode_kv_row(fixture.cache(), 0, row.data());
    const std::vector<float> back = decode(fixture.cache(), 0);
    EXPECT_EQ(back[0], 0.0F);
    EXPECT_EQ(back[1], -1.5F);  // 6 times the scale 2^-2 of a group of ones
    EXPECT_EQ(back[2], 1.0F);
}

// A value that a format can hold comes back as it was: quantising twice changes nothing.
TEST(KvRow, QuantisingADecodedRowAgainIsExact) {
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : kAllKvFormats) {
        CacheFixture fixture(format, a_dim(format), 1, 2);
        const std::vector<float> row = random_row(fixture.dim, 2.0, random);
        encode_kv_row(fixture.cache(), 0, row.data());
        const std::vector<float> once = decode(fixture.cache(), 0);
        encode_kv_row(fixture.cache(), 1, once.data());
        EXPECT_EQ(once, decode(fixture.cache(), 1)) << to_string(format);
    }
}

TEST(KvRow, WritingOneRowTouchesNoOtherByte) {
    for (const KvFormat format : kAllKvFormats) {
        for (const std::int64_t page_size : {1, 3, 53}) {
            CacheFixture fixture(format, a_dim(format), 3, page_size, 40);
            const std::int64_t slot = 3 * page_size / 2;
            std::vector<std::vector<float>> before;
            for (std::int64_t s = 0; s < 3 * page_size; ++s) before.push_back(decode(fixture.cache(), s));
            const std::vector<std::byte> bytes = fixture.values.bytes();
            encode_kv_row(fixture.cache(), slot,
                          std::vector<float>(static_cast<std::size_t>(fixture.dim), 3.0F).data());
            const std::vector<std::byte> after = fixture.values.bytes();
            std::int64_t changed = 0;
            for (std::size_t i = 0; i < bytes.size(); ++i) changed += bytes[i] != after[i] ? 1 : 0;
            EXPECT_LE(changed, kv_cache_shape(format, fixture.dim).values_row_bytes);
            for (std::int64_t s = 0; s < 3 * page_size; ++s) {
                const std::vector<float> now = decode(fixture.cache(), s);
                for (std::size_t d = 0; s != slot && d < now.size(); ++d)
                    ASSERT_TRUE(
                        same(static_cast<double>(now[d]), static_cast<double>(before[static_cast<std::size_t>(s)][d])));
                if (s == slot) {
                    EXPECT_EQ(now[0], 3.0F);
                }
            }
            fixture.values.expect_untouched_past(3);
        }
    }
}

// Address space without memory: only the pages that are touched exist.
TEST(KvRow, PoolsPast4GiBAreAddressedIn64Bits) {
    constexpr std::size_t bytes = std::size_t{5} << 30;
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) GTEST_SKIP() << "no address space";
    const std::int64_t page_bytes = 64 * 584;
    const auto pages = static_cast<std::int64_t>(bytes) / page_bytes;
    const KvCache footer{KvFormat::fp8_584, 512, 64, Tensor(memory, DType::u8, {pages, page_bytes}), {}};
    const std::int64_t rows = static_cast<std::int64_t>(bytes) / 1152;
    const KvCache plain{KvFormat::bf16, 576, 1, Tensor(memory, DType::bf16, {rows, 1, 576}), {}};
    for (const KvCache& cache : {footer, plain}) {
        const std::int64_t slot = cache.rows() - 1;
        encode_kv_row(cache, slot, std::vector<float>(static_cast<std::size_t>(cache.dim), 1.5F).data());
        EXPECT_EQ(decode(cache, slot)[7], 1.5F) << to_string(cache.format);
        EXPECT_EQ(decode(cache, 0)[7], 0.0F) << to_string(cache.format);
    }
    munmap(memory, bytes);
}

}  // namespace
}  // namespace tokamak::test
