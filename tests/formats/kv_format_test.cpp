// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "formats/kv_cache_fixture.h"
#include "tokamak/error.h"

namespace tokamak::test {
namespace {

TEST(KvFormat, NamesRoundTrip) {
    for (const KvFormat format : kAllKvFormats) EXPECT_EQ(parse_kv_format(to_string(format)), format);
    try {
        parse_kv_format("fp8");
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::parse);
        EXPECT_NE(std::string(error.what()).find("\"fp8\""), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("fp8_656"), std::string::npos);
    }
}

TEST(KvFormat, RowSizes) {
    const auto row = [](KvFormat format, std::int64_t dim) {
        const KvCacheShape shape = kv_cache_shape(format, dim);
        return std::pair(shape.values_row_bytes, shape.scales_row_bytes);
    };
    EXPECT_EQ(row(KvFormat::bf16, 576), std::pair(std::int64_t{1152}, std::int64_t{0}));
    EXPECT_EQ(row(KvFormat::fp8_656, 576), std::pair(std::int64_t{656}, std::int64_t{0}));
    EXPECT_EQ(row(KvFormat::fp8_584, 512), std::pair(std::int64_t{584}, std::int64_t{0}));
    EXPECT_EQ(row(KvFormat::fp8_split, 512), std::pair(std::int64_t{576}, std::int64_t{8}));
    EXPECT_EQ(row(KvFormat::mxfp4, 128), std::pair(std::int64_t{64}, std::int64_t{4}));
    EXPECT_EQ(row(KvFormat::f32, 100), std::pair(std::int64_t{400}, std::int64_t{0}));
}

TEST(KvFormat, DimThatTheFormatCannotHoldIsRefused) {
    EXPECT_THROW(kv_cache_shape(KvFormat::fp8_656, 512), Error);
    EXPECT_THROW(kv_cache_shape(KvFormat::fp8_584, 576), Error);
    EXPECT_THROW(kv_cache_shape(KvFormat::mxfp4, 48), Error);
    EXPECT_THROW(kv_cache_shape(KvFormat::bf16, 0), Error);
    EXPECT_THROW(kv_cache_shape(KvFormat::bf16, -64), Error);
}

TEST(KvFormat, GoodCachesPassIncludingEmptyAndStridedOnes) {
    for (const KvFormat format : kAllKvFormats)
        for (const std::int64_t pages : {0, 1, 3})
            EXPECT_NO_THROW(validate(CacheFixture(format, a_dim(format), pages, 2, 16).cache(), "cache"))
                << to_string(format);
}

/// Applies one mistake to a good cache and returns the refusal, which must name the argument.
template <class Spoil>
std::string refusal(KvFormat format, const Spoil& spoil) {
    const CacheFixture fixture(format, a_dim(format), 3, 4);
    KvCache cache = fixture.cache();
    spoil(cache);
    try {
        validate(cache, "pool");
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        EXPECT_NE(std::string(error.what()).find("`pool."), std::string::npos) << error.what();
        return error.what();
    }
    return "";
}

TEST(KvFormat, EveryMistakeIsRefusedByName) {
    for (const KvFormat format : kAllKvFormats) {
        SCOPED_TRACE(to_string(format));
        EXPECT_NE(refusal(format, [](KvCache& c) { c.values = {}; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.values.data = nullptr; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.values.dtype = DType::f64; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.values.rank = 1; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.page_size = 0; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.page_size = 5; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.dim += 1; }), "");
        EXPECT_NE(refusal(format, [](KvCache& c) { c.values.strides[1] += 1; }), "");
        EXPECT_NE(refusal(format,
                          [](KvCache& c) {
                              if (c.scales.present)
                                  c.scales = {};
                              else
                                  c.scales = Tensor(c.values.data, DType::u8, {3, 4, 8});
                          }),
                  "");
    }
    EXPECT_NE(refusal(KvFormat::bf16, [](KvCache& c) { c.values.data = c.values.as<std::byte>() + 1; }), "");
    EXPECT_NE(refusal(KvFormat::fp8_584, [](KvCache& c) { c.values.shape[1] -= 1; }).find("page_size * 584 = 2336"),
              std::string::npos);
    EXPECT_NE(refusal(KvFormat::fp8_split, [](KvCache& c) { c.scales.shape[0] = 2; }), "");
}

}  // namespace
}  // namespace tokamak::test
