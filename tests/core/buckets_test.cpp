// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "tokamak/error.h"
#include "tokamak/tune.h"

namespace tokamak::tune {
namespace {

TEST(TokenBuckets, ListForCommonMaximum) {
    const std::vector<std::int64_t> expected = {1,    2,    4,    8,    16,   32,   64,   128,  256,  512, 768,
                                                1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 8192};
    EXPECT_EQ(token_buckets(8192), expected);
}

TEST(TokenBuckets, MaximumBetweenBucketsIsTheLastOne) {
    EXPECT_EQ(token_buckets(100), (std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 100}));
    EXPECT_EQ(token_buckets(1), (std::vector<std::int64_t>{1}));
    EXPECT_TRUE(token_buckets(0).empty());
    EXPECT_TRUE(token_buckets(-5).empty());
}

TEST(TokenBuckets, MapIsClosedMonotoneAndIdempotentForEveryMaximum) {
    for (std::int64_t maximum = 1; maximum <= 9000; maximum += maximum < 600 ? 1 : 97) {
        const auto buckets = token_buckets(maximum);
        ASSERT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
        std::int64_t previous = 0;
        for (std::int64_t count = 0; count <= 2 * maximum; count += count < 600 ? 1 : 61) {
            const Bucket bucket = map_to_bucket(count, buckets);
            ASSERT_TRUE(std::binary_search(buckets.begin(), buckets.end(), bucket.tokens));
            ASSERT_EQ(bucket.extrapolated, count > maximum);
            ASSERT_TRUE(bucket.extrapolated || bucket.tokens >= count);
            ASSERT_GE(bucket.tokens, previous);
            ASSERT_EQ(map_to_bucket(bucket.tokens, buckets).tokens, bucket.tokens);
            previous = bucket.tokens;
        }
    }
}

TEST(TokenBuckets, EmptyListIsRefused) { EXPECT_THROW((void)map_to_bucket(1, {}), Error); }

}  // namespace
}  // namespace tokamak::tune
