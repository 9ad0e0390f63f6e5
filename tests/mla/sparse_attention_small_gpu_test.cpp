// SPDX-License-Identifier: Apache-2.0
// One small call by every configuration and format, a test each: what scripts/sanitize.sh runs under compute-sanitizer.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "mla/cuda/sparse_attention_choose.h"
#include "mla/mla_cases.h"

namespace tokamak::test {
namespace {

using mla::cuda::SparseConfig;

struct Rows {
    std::string name;
    std::int64_t dim;
    KvFormat format;
    bool odd_scales = false;
    bool mixed = false;  ///< and a pool of bf16 rows, for which there is a kernel of its own
};

const Rows kRows[] = {{"fp8_656", 576, KvFormat::fp8_656},
                      {"odd_scales", 576, KvFormat::fp8_656, true},
                      {"bf16_576", 576, KvFormat::bf16},
                      {"mixed_576", 576, KvFormat::fp8_656, false, true},
                      {"fp8_584", 512, KvFormat::fp8_584},
                      {"bf16_512", 512, KvFormat::bf16},
                      {"mixed_512", 512, KvFormat::fp8_584, false, true}};

/// Rows of a split: several blocks of 64 with a last one that is not full, so that rings go round, or as many as the
/// form takes.
int share_of(const SparseConfig& config, std::int64_t dim) {
    if (config.rows > 0) return config.rows - 8;
    if (config.grid && config.heads == mla::cuda::kFewHeads) return 72;
    if (config.grid && dim == 512) return 136;
    return config.splits == 1 ? 264 : 136;
}

AttentionCase small_call(const SparseConfig& config, const Rows& rows) {
    PoolCase pool = {
        .format = rows.format, .pages = 5, .page_size = 64, .top_k = config.splits * share_of(config, rows.dim)};
    pool.odd_scales = rows.odd_scales;
    AttentionCase c = {.name = rows.name, .tokens = config.grid ? 2 : 1, .dim = rows.dim, .pools = {pool}};
    c.heads = config.heads == 24 ? 100 : config.heads - 3;  // 24 heads a block are for more than 96
    if (!rows.mixed) return c;
    c.pools[0].top_k -= 40;
    c.pools.push_back({.format = KvFormat::bf16, .pages = 3, .page_size = 16, .top_k = 40});
    return c;
}

struct SmallCall {
    SparseConfig config;
    Rows rows;
};
void PrintTo(const SmallCall& call, std::ostream* stream) { *stream << to_string(call.config) << call.rows.name; }

/// What the plan asks the kernels about: formats and widths of rows that a form is not for.
bool may_fit(const SparseConfig& config, const mla::SparseAttentionProblem& problem) {
    const bool fp8 = std::none_of(problem.pools.begin(), problem.pools.end(),
                                  [](const mla::KvPool& pool) { return pool.format == KvFormat::bf16; });
    if (config.direct || config.rows == mla::cuda::kFlatRows[2]) return fp8;
    return config.heads != mla::cuda::kPairHeads || (fp8 && problem.dim == 512 && config.splits <= 4);
}

/// Those that an H200 runs: what its memory and clusters allow is asked in the test. Every start of the program makes
/// this list, so there are no data of each call here.
std::vector<SmallCall> small_calls() {
    std::vector<SmallCall> calls;
    for (const Rows& rows : kRows) {
        const std::vector<SparseConfig> configs = mla::cuda::all_configs();
        mla::SparseAttentionProblem problem = AttentionData(small_call(configs.front(), rows), 1).problem();
        for (const SparseConfig& config : configs) {
            const bool pipelined = config == SparseConfig{config.heads, config.splits};
            if (rows.mixed && !pipelined) continue;  // all other forms hand such calls to the pipelined one
            const AttentionCase c = small_call(config, rows);
            problem.max_tokens = c.tokens;
            problem.heads = c.heads;
            for (std::size_t i = 0; i < c.pools.size(); ++i) problem.pools[i].top_k = c.pools[i].top_k;
            const auto legal = mla::cuda::legal_configs(problem.heads, &may_fit, problem);
            if (std::find(legal.begin(), legal.end(), config) != legal.end()) calls.push_back({config, rows});
        }
    }
    return calls;
}

class SparseAttentionSmall : public testing::TestWithParam<SmallCall> {};

TEST_P(SparseAttentionSmall, CallMatchesTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    const auto& [config, rows] = GetParam();
    const AttentionCase c = small_call(config, rows);
    const std::string variant = to_string(config);
    const std::vector<std::string> legal =
        mla::make_plan(AttentionData(c, 1).problem(), Device::cuda()).state().variants;
    if (std::find(legal.begin(), legal.end(), variant) == legal.end()) GTEST_SKIP() << "does not fit";
    // Forms that reckon scores from e4m3 products leave calls that ask for max_logits to the pipelined form.
    const bool max_logits = !config.grid && !(config.direct && config.heads == mla::cuda::kWideHeads);
    check_attention(c, Device::cuda(), {.variant = variant}, Accumulation::tensor, max_logits);
}

INSTANTIATE_TEST_SUITE_P(Mla, SparseAttentionSmall, testing::ValuesIn(small_calls()),
                         [](const auto& info) { return to_string(info.param.config) + "_" + info.param.rows.name; });

}  // namespace
}  // namespace tokamak::test
