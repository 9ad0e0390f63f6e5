// SPDX-License-Identifier: Apache-2.0
// Numbers that are no numbers, extreme scales, aliases of the same call, huge pools.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <climits>

#include "mla/contract.h"
#include "mla/mla_cases.h"
#include "mla/random_tensor.h"
#include "mla/special_rows.h"
#include "tokamak/mla/merge_state.h"

namespace tokamak::test {
namespace {

using naive::kInfinity;
using naive::kNan;

const AttentionCase kSmall = {.name = "small",
                              .tokens = 4,
                              .heads = 3,
                              .dim = 64,
                              .value_dim = 48,
                              .pools = {{.pages = 8, .page_size = 8, .top_k = 40, .masked = 0.0}},
                              .out_dtype = DType::f32};

void run(AttentionData& data, const PlanOptions& options = {}) {
    const auto plan = mla::make_plan(data.problem(), Device::cpu(), options);
    mla::run(plan, data.args(Device::cpu()), poisoned_workspace(plan.workspace(), Device::cpu(), 0xFF));
    data.fetch(data.spec.tokens);
}

void expect_right(AttentionData& data, Accumulation accumulation = Accumulation::f32) {
    SCOPED_TRACE("seed " + std::to_string(data.seed));
    const AttentionExpected expected = data.expected();
    expect_close(data.out.host(), expected.out, out_tolerance(KvFormat::fp8_656, accumulation, data.spec.out_dtype),
                 "out");
    expect_close(data.lse.host(), expected.lse, lse_tolerance(accumulation), "lse");
    expect_close(data.max_logits.host(), expected.max_logits, lse_tolerance(accumulation), "max_logits");
}

/// Everything that a call writes, as bytes.
std::vector<std::byte> results(const AttentionData& data) {
    std::vector<std::byte> bytes = copy_of(data.out.host());
    for (const Argument* argument : {&data.lse, &data.max_logits}) {
        const std::vector<std::byte> more = copy_of(argument->host());
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
    return bytes;
}

/// Element `d` of the row that token `token` selects in column `column` of its first pool.
void set_key(AttentionData& data, std::int64_t token, std::int64_t column, std::int64_t d, double value) {
    const PoolData& pool = data.pools[0];
    const std::int64_t slot = pool.indices.at<std::int32_t>(token, column);
    const Tensor page = pool.values.host().at(slot / pool.spec.page_size);
    set_element(page, slot % pool.spec.page_size * data.spec.dim + d, value);
}

/// Gives every token rows of its own, so that a spoiled row is seen by one token only.
void separate_tokens(AttentionData& data) {
    const std::int64_t share = data.pools[0].spec.pages * data.pools[0].spec.page_size / data.spec.tokens;
    std::mt19937 random(data.seed);
    fill_uniform(data.pools[0].values.host(), random, -1, 1);
    for (std::int64_t t = 0; t < data.spec.tokens; ++t)
        for (std::int64_t j = 0; j < data.spec.pools[0].top_k; ++j)
            data.pools[0].indices.at<std::int32_t>(t, j) = static_cast<std::int32_t>(t * share + j % share);
}

TEST(SparseAttentionEdge, NanInASelectedRowPoisonsItsTokenOnly) {
    for (const std::int64_t d : {0, 63}) {  // a value element; an element that only enters the scores
        AttentionData data(kSmall);
        separate_tokens(data);
        set_key(data, 2, 5, d, kNan);
        run(data);
        expect_right(data);
        for (std::int64_t h = 0; h < 3; ++h) {
            EXPECT_TRUE(std::isnan(data.out.at<float>(2, h, 7)));
            EXPECT_TRUE(std::isnan(data.lse.at<float>(2, h)));
            EXPECT_TRUE(std::isnan(data.max_logits.at<float>(2, h)));
            EXPECT_TRUE(std::isfinite(data.lse.at<float>(1, h)));
            EXPECT_TRUE(std::isfinite(data.lse.at<float>(3, h)));
        }
    }
}

TEST(SparseAttentionEdge, NanInOneHeadOfQPoisonsThatHeadOnly) {
    AttentionData data(kSmall);
    set_element(data.q.host(), offset_of(data.q.host(), 1, 2, 9), kNan);
    run(data);
    expect_right(data);
    EXPECT_TRUE(std::isnan(data.out.at<float>(1, 2, 0)));
    EXPECT_TRUE(std::isfinite(data.out.at<float>(1, 1, 0)));
}

// infinity - infinity has no value: the output is NaN, the largest logit is what it is.
TEST(SparseAttentionEdge, ScoreOfPlusInfinityGivesNan) {
    AttentionData data(kSmall);
    separate_tokens(data);
    for (std::int64_t h = 0; h < 3; ++h) set_element(data.q.host(), offset_of(data.q.host(), 0, h, 60), 1.0);
    set_key(data, 0, 3, 60, kInfinity);
    run(data);
    expect_right(data);
    EXPECT_TRUE(std::isnan(data.out.at<float>(0, 0, 0)));
    EXPECT_TRUE(std::isnan(data.lse.at<float>(0, 0)));
    EXPECT_EQ(data.max_logits.at<float>(0, 0), std::numeric_limits<float>::infinity());
    EXPECT_TRUE(std::isfinite(data.lse.at<float>(1, 0)));
}

TEST(SparseAttentionEdge, ScoresOfMinusInfinityWeighNothingAndOnlySuchScoresGiveAnEmptyRow) {
    for (const bool all : {false, true}) {
        AttentionData data(kSmall);
        separate_tokens(data);
        for (std::int64_t h = 0; h < 3; ++h) set_element(data.q.host(), offset_of(data.q.host(), 0, h, 60), 1.0);
        for (std::int64_t j = 0; j < (all ? 40 : 3); ++j) set_key(data, 0, j, 60, -kInfinity);
        run(data);
        expect_right(data);
        EXPECT_EQ(std::isinf(data.lse.at<float>(0, 1)), all);
        EXPECT_FALSE(std::isnan(data.out.at<float>(0, 1, 5)));
    }
}

TEST(SparseAttentionEdge, WhatIsNoNumberReachesOnlyWhoSelectsIt) {
    for (const KvFormat format : {KvFormat::bf16, KvFormat::fp8_656, KvFormat::fp8_584, KvFormat::fp8_split}) {
        const bool long_rows = format == KvFormat::bf16 || format == KvFormat::fp8_656;
        const AttentionCase c = {.name = to_string(format),
                                 .tokens = 2,
                                 .heads = 40,
                                 .dim = long_rows ? 576 : 512,
                                 .value_dim = long_rows ? 512 : 448,
                                 .pools = {{.format = format, .top_k = 70}}};
        for (const SpecialCase& special : special_cases()) {
            if (special.fp8_only && format == KvFormat::bf16) continue;
            SCOPED_TRACE(special.name);
            AttentionData data(c);
            special.spoil(data);
            check_attention(data, Device::cpu(), {}, Accumulation::f32);
        }
    }
}

TEST(SparseAttentionEdge, SoftmaxScales) {
    for (const float scale : {0.0F, -0.3F, 1e-30F, 300.0F, -300.0F}) {
        AttentionData data(kSmall);
        data.softmax_scale = scale;
        run(data, {.variant = "cpu_f64"});
        expect_right(data, Accumulation::f64);
        run(data);
        for (const float value : {data.out.at<float>(0, 0, 0), data.lse.at<float>(3, 2)})
            EXPECT_TRUE(std::isfinite(value));
    }
    AttentionData data(kSmall);
    data.softmax_scale = std::numeric_limits<float>::quiet_NaN();
    expect_refused([&] { run(data); }, {"softmax_scale", "nan"});
}

TEST(SparseAttentionEdge, ExtremeFp8CodesAndScales) {
    for (const KvFormat format : {KvFormat::fp8_584, KvFormat::fp8_split}) {
        for (const int scale : {0, 1, 254, 255}) {
            for (const int code : {0x00, 0x01, 0x7E, 0x7F, 0xFF}) {
                AttentionCase c = kSmall;
                c.dim = 512;
                c.value_dim = 512;
                c.pools = {{.format = format, .pages = 4, .page_size = 5, .top_k = 12, .masked = 0.0}};
                AttentionData data(c);
                PoolData& pool = data.pools[0];
                const std::int64_t slot = pool.indices.at<std::int32_t>(1, 4);
                std::uint8_t* const page = pool.values.host().at(slot / 5).as<std::uint8_t>();
                page[slot % 5 * 576 + 70] = static_cast<std::uint8_t>(code);
                std::uint8_t* const scales =
                    format == KvFormat::fp8_584 ? page + 5 * 576 : pool.scales.host().at(slot / 5).as<std::uint8_t>();
                scales[slot % 5 * 8 + 1] = static_cast<std::uint8_t>(scale);
                // Only element 70 of the group counts: the others are zero, and an infinite scale makes them NaN.
                for (std::int64_t d = 64; d < 128; ++d)
                    if (d != 70) page[slot % 5 * 576 + d] = 0x00;
                SCOPED_TRACE(std::to_string(scale) + " " + std::to_string(code));
                run(data, {.variant = "cpu_f64"});
                expect_right(data, Accumulation::f64);
            }
        }
    }
}

TEST(SparseAttentionEdge, DuplicatedColumnsCountAsOftenAsTheyStand) {
    AttentionData data(kSmall);
    for (std::int64_t t = 0; t < 4; ++t)
        for (std::int64_t j = 1; j < 40; ++j)
            data.pools[0].indices.at<std::int32_t>(t, j) = data.pools[0].indices.at<std::int32_t>(t, 0);
    run(data);
    expect_right(data);
    for (std::int64_t t = 0; t < 4; ++t)
        EXPECT_NEAR(data.lse.at<float>(t, 1) - data.max_logits.at<float>(t, 1), std::log(40.0), 1e-5);
}

TEST(SparseAttentionEdge, IdentityTableAndPhysicalPositionsGiveTheSameBits) {
    AttentionData data(kSmall);
    run(data);
    const auto physical = results(data);
    data.spec.pools[0].table = data.pools[0].spec.table = true;
    data.pools[0].block_table = Argument(DType::i32, {4, 8}, {0, 1});
    for (std::int32_t page = 0; page < 8; ++page) data.pools[0].block_table.at<std::int32_t>(0, page) = page;
    run(data);
    EXPECT_EQ(results(data), physical);
}

TEST(SparseAttentionEdge, PositionsPastAShortTableAreMasked) {
    AttentionData data(kSmall);
    data.pools[0].spec.table = true;
    data.pools[0].block_table = Argument(DType::i32, {4, 3});
    for (std::int64_t t = 0; t < 4; ++t)
        for (std::int32_t page = 0; page < 3; ++page) data.pools[0].block_table.at<std::int32_t>(t, page) = page;
    AttentionData masked = AttentionData(kSmall, data.seed);
    for (std::int64_t t = 0; t < 4; ++t)
        for (std::int64_t j = 0; j < 40; ++j)
            if (masked.pools[0].indices.at<std::int32_t>(t, j) >= 3 * 8)
                masked.pools[0].indices.at<std::int32_t>(t, j) = -1;
    run(data);
    run(masked);
    EXPECT_EQ(results(data), results(masked));
}

// Which rows share a block, and so every bit, depends on the valid columns only.
TEST(SparseAttentionEdge, MaskedColumnsLeaveNoTrace) {
    AttentionData dense(kSmall);
    AttentionCase sparse_case = kSmall;
    sparse_case.pools[0].top_k = 3 * 40;
    AttentionData sparse(sparse_case, dense.seed);
    for (std::int64_t t = 0; t < 4; ++t)
        for (std::int64_t j = 0; j < 120; ++j)
            sparse.pools[0].indices.at<std::int32_t>(t, j) =
                j % 3 == 2 ? dense.pools[0].indices.at<std::int32_t>(t, j / 3) : -1 - static_cast<std::int32_t>(j);
    mla::SparseAttentionArgs args = sparse.args(Device::cpu());
    args.q = dense.q.host();
    args.pools[0].cache = dense.pools[0].host_cache();
    run(dense);
    mla::sparse_attention(sparse.problem(), args);
    EXPECT_EQ(results(sparse), results(dense));
}

TEST(SparseAttentionEdge, TwoPoolsEqualOnePoolWithTheColumnsOfBoth) {
    AttentionData whole(kSmall);
    run(whole);
    const auto bits = results(whole);
    mla::SparseAttentionProblem problem = whole.problem();
    mla::SparseAttentionArgs args = whole.args(Device::cpu());
    const Tensor indices = args.pools[0].indices;
    const std::int64_t strides[] = {40, 1};
    const auto columns = [&](std::int64_t first, std::int64_t count) {
        const std::int64_t shape[] = {4, count};
        return Tensor::strided(indices.as<std::int32_t>() + first, DType::i32, shape, strides);
    };
    problem.pools = {problem.pools[0], problem.pools[0]};
    problem.pools[0].top_k = 13;
    problem.pools[1].top_k = 27;
    args.pools = {args.pools[0], args.pools[0]};
    args.pools[0].indices = columns(0, 13);
    args.pools[1].indices = columns(13, 27);
    for (const Tensor& output : {args.out, args.lse, args.max_logits}) std::memset(output.data, 0, output.bytes());
    mla::sparse_attention(problem, args);
    EXPECT_EQ(results(whole), bits);
}

TEST(SparseAttentionEdge, HalvesMergeToTheWhole) {
    AttentionData whole(kSmall);
    run(whole);
    mla::SparseAttentionResult halves[2];
    for (std::int32_t half : {0, 1}) {
        mla::SparseAttentionArgs args = whole.args(Device::cpu());
        args.out = args.lse = args.max_logits = {};
        const OwnedTensor indices = OwnedTensor::copy_of(args.pools[0].indices);
        for (std::int64_t i = 0; i < indices.view().elements(); ++i)
            if (indices.as<std::int32_t>()[i] % 2 != half) indices.as<std::int32_t>()[i] = -1;
        args.pools[0].indices = indices;
        halves[half] = mla::sparse_attention(whole.problem(), args);
    }
    mla::MergeStateArgs merge;
    merge.tokens = 4;
    merge.out_a = halves[0].out;
    merge.lse_a = halves[0].lse;
    merge.out_b = halves[1].out;
    merge.lse_b = halves[1].lse;
    const auto merged = mla::merge_state({.max_tokens = 4, .heads = 3, .dim = 48, .dtype = DType::f32}, merge);
    const AttentionExpected expected = whole.expected();
    expect_close(merged.out, expected.out, {2e-5, 2e-5}, "out");
    expect_close(merged.lse, expected.lse, {2e-5, 2e-6}, "lse");
}

TEST(SparseAttentionEdge, SplitViewsOfFooterPagesGiveTheSameBits) {
    AttentionCase c = kSmall;
    c.dim = 512;
    c.pools = {{.format = KvFormat::fp8_584, .pages = 4, .page_size = 6, .top_k = 30}};
    AttentionData data(c);
    run(data);
    const auto bits = results(data);
    mla::SparseAttentionProblem problem = data.problem();
    mla::SparseAttentionArgs args = data.args(Device::cpu());
    const Tensor pages = args.pools[0].cache.values;
    const std::int64_t values[] = {4, 6, 576};
    const std::int64_t values_strides[] = {6 * 584, 576, 1};
    const std::int64_t scales[] = {4, 6, 8};
    const std::int64_t scales_strides[] = {6 * 584, 8, 1};
    problem.pools[0].format = args.pools[0].cache.format = KvFormat::fp8_split;
    args.pools[0].cache.values = Tensor::strided(pages.data, DType::u8, values, values_strides);
    args.pools[0].cache.scales = Tensor::strided(pages.as<std::byte>() + 6 * 576, DType::u8, scales, scales_strides);
    mla::sparse_attention(problem, args);
    EXPECT_EQ(results(data), bits);
}

// Address space without memory: only the pages that are touched exist.
TEST(SparseAttentionEdge, PoolPast4GiB) {
    constexpr std::size_t bytes = std::size_t{5} << 30;
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) GTEST_SKIP() << "no address space";
    AttentionCase c = kSmall;
    c.tokens = 1;
    AttentionData data(c);
    const std::int64_t pages = static_cast<std::int64_t>(bytes) / (8 * 64 * 2);
    mla::SparseAttentionProblem problem = data.problem();
    mla::SparseAttentionArgs args = data.args(Device::cpu());
    problem.pools[0].rows = pages * 8;
    args.pools[0].cache.values = Tensor(memory, DType::bf16, {pages, 8, 64});
    for (std::int64_t j = 0; j < 40; ++j)
        data.pools[0].indices.at<std::int32_t>(0, j) = static_cast<std::int32_t>(pages * 8 - 1 - j % 8);
    for (std::int64_t d = 0; d < 512; ++d) static_cast<std::uint16_t*>(memory)[(pages - 1) * 512 + d] = 0x4000;  // 2.0
    mla::sparse_attention(problem, args);
    EXPECT_EQ(data.out.at<float>(0, 1, 3), 2.0F);
    munmap(memory, bytes);
}

}  // namespace
}  // namespace tokamak::test
