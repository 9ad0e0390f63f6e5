// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <vector>

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

/// Every maximum up to 20,000: the list is the rule's own list cut at the maximum.
TEST(TokenBuckets, EveryMaximumHasTheListOfTheRule) {
    const auto all = token_buckets(1 << 20);
    for (std::int64_t maximum = 1; maximum <= 20000; ++maximum) {
        const auto buckets = token_buckets(maximum);
        const auto below = std::lower_bound(all.begin(), all.end(), maximum);
        ASSERT_EQ(buckets.size(), static_cast<std::size_t>(below - all.begin()) + 1) << maximum;
        ASSERT_TRUE(std::equal(all.begin(), below, buckets.begin())) << maximum;
        ASSERT_EQ(buckets.back(), maximum);
    }
}

/// For every maximum up to 20,000, counts at each bucket, beside it and at random up to twice the maximum: the map is
/// closed over the list, rounds up, grows with the count, maps a bucket to itself and flags what lies beyond.
TEST(TokenBuckets, MapIsClosedMonotoneAndIdempotentForEveryMaximum) {
    std::mt19937_64 random(std::random_device{}());
    std::vector<std::int64_t> counts;
    for (std::int64_t maximum = 1; maximum <= 20000; ++maximum) {
        const auto buckets = token_buckets(maximum);
        counts.assign({-1, 0, maximum - 1, maximum, maximum + 1, 2 * maximum});
        for (const std::int64_t bucket : buckets) counts.insert(counts.end(), {bucket - 1, bucket, bucket + 1});
        for (int i = 0; i < 20; ++i) counts.push_back(static_cast<std::int64_t>(random() % (2 * maximum + 1)));
        std::sort(counts.begin(), counts.end());
        std::int64_t previous = 0;
        for (const std::int64_t count : counts) {
            const Bucket bucket = map_to_bucket(count, buckets);
            const auto found = std::lower_bound(buckets.begin(), buckets.end(), bucket.tokens);
            ASSERT_TRUE(found != buckets.end() && *found == bucket.tokens) << count << " of " << maximum;
            ASSERT_EQ(bucket.extrapolated, count > maximum) << count << " of " << maximum;
            ASSERT_TRUE(bucket.extrapolated || bucket.tokens >= count) << count << " of " << maximum;
            ASSERT_TRUE(found == buckets.begin() || *(found - 1) < count) << count << " of " << maximum;
            ASSERT_GE(bucket.tokens, previous);
            ASSERT_EQ(map_to_bucket(bucket.tokens, buckets).tokens, bucket.tokens);
            previous = bucket.tokens;
        }
    }
}

TEST(TokenBuckets, HugeMaximaNeitherOverflowNorEnd) {
    const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    const auto buckets = token_buckets(largest);
    EXPECT_LT(buckets.size(), 100U);
    EXPECT_EQ(buckets.back(), largest);
    EXPECT_TRUE(std::adjacent_find(buckets.begin(), buckets.end(), std::greater_equal<>()) == buckets.end());
}

TEST(TokenBuckets, AnyAscendingListCanBeMappedTo) {
    const std::vector<std::int64_t> tuned = {3, 50, 51};
    EXPECT_EQ(map_to_bucket(0, tuned).tokens, 3);
    EXPECT_EQ(map_to_bucket(4, tuned).tokens, 50);
    EXPECT_EQ(map_to_bucket(51, tuned).tokens, 51);
    EXPECT_FALSE(map_to_bucket(51, tuned).extrapolated);
    EXPECT_EQ(map_to_bucket(52, tuned).tokens, 51);
    EXPECT_TRUE(map_to_bucket(52, tuned).extrapolated);
}

TEST(TokenBuckets, EmptyListIsRefused) { EXPECT_THROW((void)map_to_bucket(1, {}), Error); }

}  // namespace
}  // namespace tokamak::tune
