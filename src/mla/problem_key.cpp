// SPDX-License-Identifier: Apache-2.0
#include "mla/problem_key.h"

#include <fmt/format.h>

namespace tokamak::mla {

std::string problem_key(const SparseAttentionProblem& p) {
    std::string key = fmt::format("heads={} dim={} value_dim={} q={} out={}", p.heads, p.dim, p.value_dim,
                                  to_string(p.q_dtype), to_string(p.out_dtype));
    for (const KvPool& pool : p.pools)
        key += fmt::format(" pool={}:page={}:top_k={}{}{}", to_string(pool.format), pool.page_size, pool.top_k,
                           pool.has_table ? ":table" : "", pool.has_length ? ":length" : "");
    return key;
}

}  // namespace tokamak::mla
