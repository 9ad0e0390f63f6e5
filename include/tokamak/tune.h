// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tokamak::tune {

/// Token counts for which a plan of at most `max_tokens` tokens holds a row: 1, 2, 4 ... 256, then every 256 to 2048,
/// every 512 to 4096, doubling above, and `max_tokens` itself. Ascending; empty for max_tokens <= 0. Pure.
std::vector<std::int64_t> token_buckets(std::int64_t max_tokens);

struct Bucket {
    std::int64_t tokens = 0;
    bool extrapolated = false;  ///< the count lies above the largest bucket
};

/// The smallest bucket not below `tokens`; the largest, flagged, if there is none. Closed over the list for every
/// list. `buckets` ascending and not empty; counts below 1 map to the first. Throws `invalid_argument` on an empty
/// list. Pure.
Bucket map_to_bucket(std::int64_t tokens, std::span<const std::int64_t> buckets);

}  // namespace tokamak::tune
