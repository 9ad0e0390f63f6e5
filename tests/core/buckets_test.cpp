// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <thread>
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

/// What is wrong with the map of one maximum, over every count up to twice it; empty if nothing is.
std::string wrong_with_map(std::int64_t maximum) {
    const auto buckets = token_buckets(maximum);
    for (std::int64_t power = 1; power <= maximum; power *= 2)
        if (!std::binary_search(buckets.begin(), buckets.end(), power)) return "a power of two is missing";
    auto expected = buckets.begin();
    for (std::int64_t count = -1; count <= 2 * maximum; ++count) {
        while (expected + 1 != buckets.end() && *expected < count) ++expected;
        const Bucket bucket = map_to_bucket(count, buckets);
        // Being the expected element of the list, it is in the list, grows with the count and is the nearest above.
        if (bucket.tokens != *expected || (bucket.tokens < count) != (count > maximum) ||
            bucket.extrapolated != (count > maximum))
            return "count " + std::to_string(count) + " gives bucket " + std::to_string(bucket.tokens);
    }
    for (const std::int64_t bucket : buckets)
        if (map_to_bucket(bucket, buckets).tokens != bucket || map_to_bucket(bucket, buckets).extrapolated)
            return "bucket " + std::to_string(bucket) + " does not map to itself";
    return {};
}

TEST(TokenBuckets, MapIsClosedMonotoneAndIdempotentForEveryMaximumAndCount) {
    std::vector<std::string> wrong(20001);
    std::thread other([&] {
        for (std::size_t maximum = 2; maximum < wrong.size(); maximum += 2)
            wrong[maximum] = wrong_with_map(static_cast<std::int64_t>(maximum));
    });
    for (std::size_t maximum = 1; maximum < wrong.size(); maximum += 2)
        wrong[maximum] = wrong_with_map(static_cast<std::int64_t>(maximum));
    other.join();
    for (std::size_t maximum = 1; maximum < wrong.size(); ++maximum) ASSERT_EQ(wrong[maximum], "") << maximum;
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
