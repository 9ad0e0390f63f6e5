// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "core/throw.h"
#include "tokamak/tune.h"

namespace tokamak::tune {
namespace {

/// The bucket after `tokens`: powers of two to 256, steps of 256 to 2048, of 512 to 4096, doubling above.
std::int64_t next_bucket(std::int64_t tokens) {
    if (tokens < 256) return tokens * 2;
    if (tokens < 2048) return tokens + 256;
    if (tokens < 4096) return tokens + 512;
    return tokens > std::numeric_limits<std::int64_t>::max() / 2 ? std::numeric_limits<std::int64_t>::max()
                                                                 : tokens * 2;
}

}  // namespace

std::vector<std::int64_t> token_buckets(std::int64_t max_tokens) {
    std::vector<std::int64_t> buckets;
    if (max_tokens <= 0) return buckets;
    for (std::int64_t tokens = 1; tokens < max_tokens; tokens = next_bucket(tokens)) buckets.push_back(tokens);
    buckets.push_back(max_tokens);
    return buckets;
}

Bucket map_to_bucket(std::int64_t tokens, std::span<const std::int64_t> buckets) {
    if (buckets.empty()) invalid("tune: `buckets` is empty, expected at least one");
    const auto found = std::lower_bound(buckets.begin(), buckets.end(), tokens);
    if (found == buckets.end()) return {buckets.back(), true};
    return {*found, false};
}

}  // namespace tokamak::tune
