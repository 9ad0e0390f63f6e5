// SPDX-License-Identifier: Apache-2.0
// Rows grouped by expert against the same rows with ids, which must give the same bits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "moe/moe_cases.h"

namespace tokamak::moe::test {

inline FusedMoeCase batched_case(const WeightSpec& weights, std::int64_t rows, int experts) {
    FusedMoeCase c;
    c.tokens = rows * experts;
    c.problem = {.max_tokens = c.tokens,
                 .hidden = 256,
                 .intermediate = 128,
                 .num_experts = experts,
                 .top_k = 1,
                 .weights = weights};
    c.gate_up_bias = c.down_bias = true;
    return c;
}

/// Ids that name the experts of live rows.
inline OwnedTensor ids_of(std::span<const std::int32_t> live, std::int64_t rows) {
    OwnedTensor ids = OwnedTensor::allocate(DType::i32, {static_cast<std::int64_t>(live.size()) * rows, 1});
    auto* id = ids.as<std::int32_t>();
    for (std::size_t expert = 0; expert < live.size(); ++expert)
        for (std::int64_t row = 0; row < rows; ++row)
            *id++ = row < live[expert] ? static_cast<std::int32_t>(expert) : -1;
    return ids;
}

/// `live`: rows of each expert, negative and too large numbers among them. Other rows of x are NaN.
inline void expect_batched(FusedMoeCase c, std::span<const std::int32_t> live, Device device, std::uint64_t purpose,
                           const PlanOptions& options = {}) {
    SCOPED_TRACE(to_string(c) + " " + options.variant);
    const std::int64_t rows = c.tokens / c.problem.num_experts;
    Rng rng = rng_for(purpose);
    FusedMoeData host = random_data(rng, c);
    const OwnedTensor host_ids = ids_of(live, rows);
    const std::size_t row_bytes = static_cast<std::size_t>(c.problem.hidden) * 2;
    for (std::int64_t row = 0; row < c.tokens; ++row)
        if (host_ids.as<std::int32_t>()[row] < 0)
            std::memset(host.x.as<std::byte>() + row * row_bytes, 0xFF, row_bytes);
    const FusedMoeData data = host.on(device);
    const OwnedTensor ids = OwnedTensor::copy_of(host_ids, device);
    FusedMoeArgs with_ids = data.args();
    with_ids.ids = ids;
    const std::vector<std::byte> want = bytes_of(run_guarded(make_plan(c.problem, device, options), with_ids));

    OwnedTensor host_rows = OwnedTensor::allocate(DType::i32, {static_cast<std::int64_t>(live.size())});
    std::copy(live.begin(), live.end(), host_rows.as<std::int32_t>());
    const OwnedTensor expert_rows = OwnedTensor::copy_of(host_rows, device);
    c.problem.batched_experts = true;
    FusedMoeArgs args = data.args();
    args.ids = {};
    args.expert_map = {};
    args.expert_rows = expert_rows;
    const std::uint8_t poison = 0x7B;
    const std::vector<std::byte> got = bytes_of(run_guarded(make_plan(c.problem, device, options), args, poison));
    ASSERT_EQ(got.size(), want.size());
    for (std::int64_t row = 0; row < c.tokens; ++row) {
        const std::byte* const at = got.data() + row * row_bytes;
        if (host_ids.as<std::int32_t>()[row] >= 0)
            EXPECT_EQ(std::memcmp(at, want.data() + row * row_bytes, row_bytes), 0) << "row " << row;
        else
            EXPECT_TRUE(std::all_of(at, at + row_bytes, [&](std::byte b) { return b == std::byte{poison}; }))
                << "row " << row << " was written";
    }
}

}  // namespace tokamak::moe::test
