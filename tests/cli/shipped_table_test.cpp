// SPDX-License-Identifier: Apache-2.0
// The table that ships: its rows are for the problems of the benchmarks, and name variants that every plan of them has.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/shapes.h"
#include "core/choose.h"
#include "core/config_store.h"
#include "moe/cuda/legal_variants.h"
#include "moe/cuda/pass_workspace.h"
#include "moe/problem_key.h"

namespace tokamak::test {
namespace {

/// Names of the variants of a plan on an H200.
std::vector<std::string> variants_of(const moe::FusedMoeProblem& problem) {
    DeviceInfo info;
    info.compute_capability = 90;
    info.multiprocessors = 132;
    info.shared_memory_bytes = 232448;
    moe::cuda::FusedMoeCuda cuda{.grid = info.multiprocessors};
    cuda.pass_tokens = moe::cuda::pass_tokens(problem, {}, cuda, false);
    cuda.grid_pass_tokens = moe::cuda::pass_tokens(problem, {}, cuda, true);
    cuda.wide_tokens = moe::cuda::wide_tokens(problem, {}, cuda);
    cuda.gather_tokens = moe::cuda::gather_pass_tokens(problem);
    return moe::cuda::legal_variants(problem, cuda, info, {}).names();
}

/// The shipped table of a shape; null if it has none.
const TunedTable* table_of(const moe::FusedMoeProblem& problem) {
    return ConfigStore::shipped().find("NVIDIA H200", stored_key("fused_moe", moe::problem_key(problem), {}, 132));
}

TEST(ShippedTable, RowsForManyTokensAreLegalForEveryLargestCall) {
    for (const cli::MoeShape& shape : cli::moe_prefill_shapes())
        for (const WeightSpec& weights : shape.formats)
            for (const std::int64_t max_tokens : {64, 1024, 3000, 32768}) {
                moe::FusedMoeProblem problem = cli::fused_moe_problem(shape, weights, max_tokens);
                problem.quantize_activations = weights.format == WeightFormat::fp8_block;
                SCOPED_TRACE(shape.name + " " + to_string(weights) + " max_tokens " + std::to_string(max_tokens));
                const TunedTable* const table = table_of(problem);
                ASSERT_NE(table, nullptr);
                EXPECT_EQ(table->back().tokens, 32768);
                const auto legal = variants_of(problem);
                for (const TunedRow& row : *table) {
                    const bool is_legal = std::find(legal.begin(), legal.end(), row.variant) != legal.end();
                    EXPECT_TRUE(is_legal || row.tokens > max_tokens) << row.variant << " at " << row.tokens;
                }
            }
}

TEST(ShippedTable, EveryRowOfAMoeLayerIsLegalForEveryLargestCall) {
    for (const cli::MoeShape& shape : cli::moe_shapes())
        for (const WeightSpec& weights : shape.formats)
            for (const std::int64_t max_tokens : {1, 2, 8, 64, 100, 1024}) {
                moe::FusedMoeProblem problem = cli::fused_moe_problem(shape, weights, max_tokens);
                problem.quantize_activations = weights.format == WeightFormat::fp8_block;
                SCOPED_TRACE(shape.name + " " + to_string(weights) + " max_tokens " + std::to_string(max_tokens));
                const TunedTable* const table = table_of(problem);
                ASSERT_NE(table, nullptr);
                const auto legal = variants_of(problem);
                for (const TunedRow& row : *table) {
                    const bool is_legal = std::find(legal.begin(), legal.end(), row.variant) != legal.end();
                    EXPECT_TRUE(is_legal || row.tokens > max_tokens) << row.variant;
                }
            }
}

}  // namespace
}  // namespace tokamak::test
