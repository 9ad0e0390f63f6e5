// SPDX-License-Identifier: Apache-2.0
// Every case of the operator on the GPU by every configuration.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "formats/scalar.h"
#include "mla/cuda/sparse_attention_choose.h"
#include "mla/mla_cases.h"
#include "mla/special_rows.h"

namespace tokamak::test {
namespace {

/// Enough rows for several blocks in every split, and rings that go round.
std::vector<AttentionCase> long_cases() {
    std::vector<AttentionCase> cases;
    cases.push_back(
        {.name = "long_bf16", .tokens = 2, .heads = 40, .pools = {{.pages = 70, .page_size = 64, .top_k = 1500}}});
    cases.push_back({.name = "long_bf16_512",
                     .tokens = 2,
                     .heads = 33,
                     .dim = 512,
                     .pools = {{.pages = 90, .page_size = 64, .top_k = 2048}}});
    cases.push_back(
        {.name = "long_fp8_656",
         .tokens = 2,
         .heads = 40,
         .pools = {{.format = KvFormat::fp8_656, .pages = 80, .page_size = 64, .top_k = 2048, .masked = 0.01}}});
    cases.push_back({.name = "long_128_heads",
                     .heads = 128,
                     .pools = {{.format = KvFormat::fp8_656, .pages = 80, .page_size = 64, .top_k = 1100}}});
    cases.push_back(
        {.name = "long_fp8_584",
         .tokens = 2,
         .heads = 70,
         .dim = 512,
         .pools = {{.format = KvFormat::fp8_584, .pages = 4, .page_size = 256, .top_k = 128, .lengths = true},
                   {.format = KvFormat::fp8_584, .pages = 900, .page_size = 2, .top_k = 1024, .lengths = true}},
         .sinks = Sinks::random});
    cases.push_back(
        {.name = "shares_of_80_rows",
         .tokens = 3,
         .heads = 64,
         .dim = 512,
         .pools = {{.format = KvFormat::fp8_split, .pages = 6, .page_size = 64, .top_k = 128, .masked = 0.1},
                   {.format = KvFormat::fp8_split,
                    .pages = 40,
                    .page_size = 31,
                    .top_k = 512,
                    .table = true,
                    .lengths = true}}});
    cases.push_back(
        {.name = "long_mixed",
         .tokens = 2,
         .heads = 40,
         .dim = 512,
         .pools = {{.format = KvFormat::bf16, .pages = 10, .page_size = 64, .top_k = 300},
                   {.format = KvFormat::fp8_split, .pages = 40, .page_size = 31, .top_k = 901, .table = true}}});
    return cases;
}

/// Outputs that are not stored 16 bytes of bf16 at a time, of the rows that the forms without a conversion take and of
/// those that need none.
std::vector<AttentionCase> output_cases() {
    std::vector<AttentionCase> cases;
    for (const auto& [name, dim, format] : {std::tuple("fp8_656", 576, KvFormat::fp8_656),
                                            {"fp8_584", 512, KvFormat::fp8_584},
                                            {"bf16", 576, KvFormat::bf16}}) {
        const PoolCase pool = {.format = format, .pages = 5, .page_size = 64, .top_k = 200};
        const AttentionCase c = {.tokens = 2, .heads = 70, .dim = dim, .pools = {pool}};
        for (const DType out : {DType::f16, DType::f32}) {
            cases.push_back(c);
            cases.back().name = std::string(name) + "_out_" + to_string(out);
            cases.back().out_dtype = out;
        }
        cases.push_back(c);
        cases.back().name = std::string(name) + "_strided";
        cases.back().strided = true;
    }
    return cases;
}

/// The cases in the row widths that the kernels have, with heads enough for every head tile.
std::vector<AttentionCase> gpu_cases() {
    std::vector<AttentionCase> cases = long_cases();
    for (const AttentionCase& c : output_cases()) cases.push_back(c);
    for (AttentionCase c : attention_cases()) {
        if (c.dim != 512 && c.dim != 576) c.dim = c.heads % 2 == 0 ? 576 : 512;
        if (c.value_dim != 448) c.value_dim = 512;
        if (c.name.find("heads_") == std::string::npos) c.heads = 36 + c.heads;
        if (c.heads <= 128 && mla::supports(AttentionData(c, 1).problem(), Device::cuda())) cases.push_back(c);
    }
    return cases;
}

std::vector<std::string> all_variants() {
    std::vector<std::string> names;
    for (const mla::cuda::SparseConfig& config : mla::cuda::all_configs()) names.push_back(to_string(config));
    return names;
}

/// Whether a plan for the case lists the configuration.
bool is_legal(const AttentionCase& c, const std::string& variant) {
    const auto plan = mla::make_plan(AttentionData(c, 1).problem(), Device::cuda());
    const std::vector<std::string>& legal = plan.state().variants;
    return std::find(legal.begin(), legal.end(), variant) != legal.end();
}

/// Parameter: the name of a configuration.
class SparseAttentionGpu : public testing::TestWithParam<std::string> {};

TEST_P(SparseAttentionGpu, EveryCaseMatchesTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    int ran = 0;
    for (const AttentionCase& c : gpu_cases()) {
        if (!is_legal(c, GetParam())) continue;
        check_attention(c, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor);
        check_attention(c, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor, false);
        if (HasFatalFailure()) return;
        ++ran;
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

/// All but `live` columns of every token masked: those behind them, or those between.
void keep(PoolData& pool, std::int64_t live, bool together) {
    const std::int64_t every = together ? 1 : pool.spec.top_k / live;
    for (std::int64_t t = 0; t < pool.indices.host().shape[0]; ++t)
        for (std::int64_t j = 0; j < pool.spec.top_k; ++j)
            if (j % every != 0 || j / every >= live) pool.indices.at<std::int32_t>(t, j) = -1;
}

/// Scores that grow from column to column for some heads and fall for others, by 12 powers of two a block of 64 rows:
/// what weights are relative to has to move again and again. The dimension that does it is no value.
void grow(AttentionData& data) {
    PoolData& pool = data.pools[0];
    const std::int64_t last = data.spec.dim - 1;
    for (std::int64_t t = 0; t < data.spec.tokens; ++t) {
        auto* const indices = &pool.indices.at<std::int32_t>(t, 0);
        std::sort(indices, indices + pool.spec.top_k);
        for (std::int64_t h = 0; h < data.spec.heads; ++h)
            data.q.at<std::uint16_t>(t, h, last) = scalar::float_to_bf16(h % 3 == 2 ? 0.0F : h % 3 == 1 ? -1.0F : 1.0F);
    }
    const std::int64_t slots = pool.spec.pages * pool.spec.page_size;
    const auto all = static_cast<float>(pool.spec.top_k) / 64 * 12 / 1.44F / data.softmax_scale;
    for (std::int64_t slot = 0; slot < slots / 2; ++slot)
        pool.values.at<std::uint16_t>(slot / pool.spec.page_size, slot % pool.spec.page_size, last) =
            scalar::float_to_bf16(static_cast<float>(2 * slot) / static_cast<float>(slots) * all);
}

/// Rows of fp8_584 that differ in size: by scales, and some of them by rotary values that are far larger than what the
/// scales ask for. `every`: so many slots have the same powers.
void spread_powers(PoolData& pool, std::int64_t every) {
    constexpr std::int64_t kRow = 576;
    for (std::int64_t slot = 0; slot < pool.spec.pages * pool.spec.page_size; ++slot) {
        const std::int64_t page = slot / pool.spec.page_size;
        const std::int64_t row = slot % pool.spec.page_size;
        const std::int64_t kind = slot / every % 5;
        for (std::int64_t g = 0; g < 7; ++g) {
            auto& scale = pool.values.at<std::uint8_t>(page, pool.spec.page_size * kRow + row * 8 + g);
            if (scale < 127) scale = static_cast<std::uint8_t>(scale - std::array{0, 3, 9, 17, 40}[kind] + g % 2);
        }
    }
}

TEST_P(SparseAttentionGpu, RowsOfManyPowersMatchTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    int ran = 0;
    for (const std::int64_t every : {1, 3}) {
        const PoolCase pool = {.format = KvFormat::fp8_584, .pages = 40, .page_size = 64, .top_k = 700};
        const AttentionCase c = {.name = "powers", .tokens = 2, .heads = 70, .dim = 512, .pools = {pool}};
        if (!is_legal(c, GetParam())) continue;
        for (const bool max_logits : {true, false}) {
            AttentionData data(c);
            spread_powers(data.pools[0], every);
            check_attention(data, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor, max_logits);
            if (HasFatalFailure()) return;
        }
        ++ran;
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

TEST_P(SparseAttentionGpu, GrowingScoresMatchTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    int ran = 0;
    for (const std::int64_t dim : {576, 512}) {
        for (const bool growing : {false, true}) {
            const PoolCase pool = {.pages = 40, .page_size = 64, .top_k = 1100, .masked = 0.0};
            const AttentionCase c = {
                .name = "growing", .tokens = 2, .heads = 70, .dim = dim, .value_dim = 448, .pools = {pool}};
            if (!is_legal(c, GetParam())) continue;
            AttentionData data(c);
            if (growing) grow(data);
            SCOPED_TRACE(fmt::format("rows of {}, scores {}", dim, growing ? "grow" : "as they come"));
            check_attention(data, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor);
            if (HasFatalFailure()) return;
            ++ran;
        }
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

/// Errors of single scores show where few of them are averaged: e4m3 sums would err by 2e-4. The lse of one or two rows
/// can be any number near zero, but is a sum of hundreds of products in f32, good to 1e-6 of scores of the order of
/// ten.
TEST_P(SparseAttentionGpu, FewLiveRowsMatchTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    int ran = 0;
    for (const auto& [dim, format, odd] :
         {std::tuple(576, KvFormat::fp8_656, false), {576, KvFormat::fp8_656, true}, {512, KvFormat::fp8_584, false}}) {
        const PoolCase pool = {.format = format, .pages = 40, .page_size = 64, .top_k = 1024, .odd_scales = odd};
        const AttentionCase c = {
            .name = "few", .tokens = 2, .heads = 70, .dim = dim, .pools = {pool}, .lse_absolute = 1e-5};
        if (!is_legal(c, GetParam())) continue;
        for (const std::int64_t live : {1, 2, 7, 16, 33, 63, 64}) {
            for (const bool together : {true, false}) {
                AttentionData data(c);
                keep(data.pools[0], live, together);
                SCOPED_TRACE(std::to_string(live) + (together ? " rows together" : " rows apart"));
                check_attention(data, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor, false);
                if (HasFatalFailure()) return;
            }
        }
        ++ran;
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

AttentionCase small(const char* name, std::int64_t dim, PoolCase pool) {
    pool.pages = 5;
    pool.page_size = 64;
    pool.top_k = 200;
    return {.name = name, .tokens = 1, .heads = 70, .dim = dim, .pools = {pool}};
}

/// A few blocks of rows of every kind: what compute-sanitizer follows in seconds.
TEST_P(SparseAttentionGpu, SmallCasesMatchTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    AttentionCase of_flat_656 = small("of_flat_656", 576, {.format = KvFormat::fp8_656, .odd_scales = true});
    of_flat_656.pools[0].top_k = 1100;  // shares of 65 to 256 rows, depending on the splits
    of_flat_656.heads = 100;            // as many as 24 heads a block are for
    AttentionCase of_flat_584 = small("of_flat_584", 512, {.format = KvFormat::fp8_584});
    of_flat_584.pools[0].top_k = 600;
    int ran = 0;
    for (const AttentionCase& c : {small("small_fp8_656", 576, {.format = KvFormat::fp8_656}),
                                   small("small_odd_scales", 576, {.format = KvFormat::fp8_656, .odd_scales = true}),
                                   small("small_fp8_584", 512, {.format = KvFormat::fp8_584}),
                                   small("small_bf16", 576, {.format = KvFormat::bf16}), of_flat_656, of_flat_584}) {
        if (!is_legal(c, GetParam())) continue;
        for (const bool max_logits : {true, false})
            check_attention(c, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor, max_logits);
        if (HasFatalFailure()) return;
        ++ran;
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

TEST_P(SparseAttentionGpu, WhatIsNoNumberReachesOnlyWhoSelectsIt) {
    TOKAMAK_REQUIRE_GPU();
    int ran = 0;
    for (AttentionCase c :
         {small("fp8_656", 576, {.format = KvFormat::fp8_656}), small("fp8_584", 512, {.format = KvFormat::fp8_584}),
          small("bf16", 576, {}), small("bf16_512", 512, {})}) {
        c.tokens = 2;
        if (c.dim == 512) c.value_dim = 448;  // the last element of a row is no value
        if (!is_legal(c, GetParam())) continue;
        for (const SpecialCase& special : special_cases()) {
            if (special.fp8_only && c.pools[0].format == KvFormat::bf16) continue;
            for (const bool max_logits : {true, false}) {
                SCOPED_TRACE(special.name);
                AttentionData data(c);
                special.spoil(data);
                check_attention(data, Device::cuda(), {.variant = GetParam()}, Accumulation::tensor, max_logits);
                if (HasFatalFailure()) return;
            }
        }
        ++ran;
    }
    if (ran == 0) GTEST_SKIP() << "no problem is legal for " << GetParam();
}

INSTANTIATE_TEST_SUITE_P(Mla, SparseAttentionGpu, testing::ValuesIn(all_variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tokamak::test
