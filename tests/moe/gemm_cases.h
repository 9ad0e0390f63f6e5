// SPDX-License-Identifier: Apache-2.0
// The routed GEMM that most tests start from.
#pragma once

#include "moe/moe_cases.h"

namespace tokamak::moe::test {

/// The first number of columns from `cols` on that the format allows.
inline std::int64_t legal_cols(const WeightSpec& spec, std::int64_t cols) {
    const bool any = spec.format == WeightFormat::bf16 || spec.format == WeightFormat::fp8_block;
    const std::int64_t group = any ? 1 : spec.group_size;
    return (cols + group - 1) / group * group;
}

/// Odd sizes, experts elsewhere, ids that name none.
inline RoutedGemmCase gemm_case(const WeightSpec& spec, std::int64_t tokens = 9) {
    RoutedGemmCase c;
    c.tokens = tokens;
    c.problem = {.max_tokens = tokens + 2,
                 .rows = 53,
                 .cols = legal_cols(spec, 77),
                 .num_experts = 6,
                 .num_local_experts = 4,
                 .top_k = 3,
                 .weights = spec};
    c.placement = Placement::scattered;
    c.bad_ids = 0.1;
    return c;
}

}  // namespace tokamak::moe::test
