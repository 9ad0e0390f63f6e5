// SPDX-License-Identifier: Apache-2.0
// The check of a cache argument at an operator's boundary.
#pragma once

#include "tokamak/kv_format.h"

namespace tokamak::kv {

/// How messages name the operator and the two tensors of a cache argument.
struct CacheNames {
    const char* op;
    const char* values;
    const char* scales;
};

/// What the plan was made for.
struct CacheExpect {
    KvFormat format;
    std::int64_t dim;
    std::int64_t page_size;
    Device device;
    bool written = false;  ///< pages must not overlap
};

/// Throws `invalid_argument` unless the cache is as expected. Allocates only to throw.
void check_cache(const KvCache& cache, const CacheExpect& expect, const CacheNames& names);

/// Throws `invalid_argument` unless a row of `dim` elements exists in the format.
void check_dim(KvFormat format, std::int64_t dim, const char* op, const char* name);

}  // namespace tokamak::kv
