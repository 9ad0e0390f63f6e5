// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/write_kv.h"

#include <gtest/gtest.h>

#include <map>

#include "formats/kv_cache_fixture.h"
#include "mla/contract.h"
#include "mla/random_tensor.h"

namespace tokamak::test {
namespace {

struct Write {
    std::mt19937 random{std::random_device{}()};
    CacheFixture cache;
    std::int64_t tokens;
    DType dtype;
    KvScale scale = KvScale::power_of_two;
    Argument kv, slots, num_tokens;

    Write(KvFormat format, std::int64_t tokens, std::int64_t pages, std::int64_t page_size, DType dtype = DType::bf16,
          DType slot_dtype = DType::i64, std::int64_t gap = 0)
        : cache(format, a_dim(format), pages, page_size, gap), tokens(tokens), dtype(dtype) {
        kv = Argument(dtype, {tokens, cache.dim}, {cache.dim + gap, 1});
        slots = Argument(slot_dtype, {tokens}, {gap > 0 ? 2 : 1});
        fill_uniform(kv.host(), random, -3, 3);
        for (std::int64_t t = 0; t < tokens; ++t) set_slot(t, t);
    }

    void set_slot(std::int64_t token, std::int64_t slot) {
        if (slots.host().dtype == DType::i64)
            slots.at<std::int64_t>(token) = slot;
        else
            slots.at<std::int32_t>(token) = static_cast<std::int32_t>(slot);
    }

    std::int64_t slot(std::int64_t token) const {
        return slots.host().dtype == DType::i64 ? slots.at<std::int64_t>(token) : slots.at<std::int32_t>(token);
    }

    mla::WriteKvProblem problem() const {
        return {.max_tokens = tokens,
                .format = cache.format,
                .dim = cache.dim,
                .page_size = cache.page_size,
                .scale = scale,
                .dtype = dtype};
    }

    mla::WriteKvArgs args() {
        mla::WriteKvArgs args;
        args.tokens = tokens;
        args.num_tokens = num_tokens.on(Device::cpu());
        args.kv = kv.on(Device::cpu());
        args.slots = slots.on(Device::cpu());
        args.cache = cache.cache();
        return args;
    }

    void run(const PlanOptions& options = {}) {
        const auto plan = mla::make_plan(problem(), Device::cpu(), options);
        mla::run(plan, args(), poisoned_workspace(plan.workspace(), Device::cpu(), 0xFF));
    }

    /// The cache holds what encode_kv_row makes of the last of the first `live` tokens for each slot, and every other
    /// byte is as before. (encode_kv_row has its own tests.)
    void expect_right(std::int64_t live) const {
        CacheFixture want(cache.format, cache.dim, cache.values.host().shape[0], cache.page_size, gap());
        for (std::int64_t t = 0; t < live; ++t) {
            if (slot(t) < 0 || slot(t) >= want.cache().rows()) continue;
            std::vector<float> row;
            for (std::int64_t d = 0; d < cache.dim; ++d) row.push_back(static_cast<float>(element_at(kv.host(), t, d)));
            encode_kv_row(want.cache(), slot(t), row.data(), scale);
        }
        EXPECT_TRUE(cache.values.bytes() == want.values.bytes());
        EXPECT_TRUE(cache.scales.bytes() == want.scales.bytes());
    }

    std::int64_t gap() const {
        const Tensor& values = cache.values.host();
        return values.strides[0] - (values.rank == 2 ? values.shape[1] : values.shape[1] * values.shape[2]);
    }
};

TEST(WriteKv, EveryFormatInputAndSlotType) {
    for (const KvFormat format : kAllKvFormats) {
        for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
            for (const DType slot_dtype : {DType::i32, DType::i64}) {
                SCOPED_TRACE(std::string(to_string(format)) + " " + to_string(dtype));
                Write write(format, 7, 3, 5, dtype, slot_dtype, /*gap=*/24);
                for (std::int64_t t = 0; t < 7; ++t) write.set_slot(t, (t * 4 + 1) % 15);
                write.run();
                write.expect_right(7);
            }
        }
    }
}

TEST(WriteKv, ExactScalesOf656) {
    Write write(KvFormat::fp8_656, 5, 1, 5);
    write.scale = KvScale::exact;
    write.run();
    write.expect_right(5);
}

TEST(WriteKv, SlotsOutOfTheCacheAreSkippedAndDuplicatesGoToTheLastRow) {
    for (const KvFormat format : kAllKvFormats) {
        Write write(format, 64, 4, 53);
        const std::int64_t bad[] = {-1, -100, 4 * 53, std::int64_t{1} << 40, INT64_MIN, INT64_MAX};
        for (std::int64_t t = 0; t < 64; ++t)
            write.set_slot(t, t % 5 == 0 ? bad[t / 5 % 6] : static_cast<std::int64_t>(write.random() % 20));
        write.run();
        write.expect_right(64);
    }
}

TEST(WriteKv, ManyRowsToOneSlot) {
    Write write(KvFormat::bf16, 500, 2, 2);
    for (std::int64_t t = 0; t < 500; ++t) write.set_slot(t, 3);
    write.run();
    write.expect_right(500);
}

TEST(WriteKv, PageSizes) {
    for (const std::int64_t page_size : {1, 2, 64, 576}) {
        Write write(KvFormat::fp8_584, 6, 2, page_size, DType::bf16, DType::i64, 40);
        for (std::int64_t t = 0; t < 6; ++t) write.set_slot(t, 2 * page_size - 1 - t);
        write.run();
        write.expect_right(6);
    }
}

TEST(WriteKv, DeviceCountOnlyLowers) {
    for (const auto& [count, live] : {std::pair{3, 3}, {-2, 0}, {100, 6}}) {
        Write write(KvFormat::fp8_split, 6, 2, 4);
        write.num_tokens = Argument(DType::i32, {1});
        write.num_tokens.at<std::int32_t>(0) = count;
        write.run();
        write.expect_right(live);
    }
}

TEST(WriteKv, ConvenienceGivesTheSameBits) {
    Write write(KvFormat::fp8_656, 6, 2, 4);
    mla::write_kv(write.problem(), write.args());
    write.expect_right(6);
}

TEST(WriteKv, WrittenRowsAreReadByAnyPageOrder) {
    Write write(KvFormat::fp8_584, 8, 2, 4, DType::f32);
    write.run();
    for (std::int64_t t = 0; t < 8; ++t) {
        const std::vector<double> row = naive::kv_row(write.cache.cache(), t / 4, t % 4);
        for (std::int64_t d = 0; d < 512; ++d)
            EXPECT_NEAR(row[static_cast<std::size_t>(d)], element_at(write.kv.host(), t, d), 3.0 / 16) << t << " " << d;
    }
}

TEST(WriteKv, Workspace) {
    Write write(KvFormat::bf16, 9, 2, 4);
    const auto plan = mla::make_plan(write.problem(), Device::cpu());
    expect_exact_layout(plan);
    expect_monotone([&](std::int64_t tokens) {
        mla::WriteKvProblem problem = write.problem();
        problem.max_tokens = tokens;
        return mla::make_plan(problem, Device::cpu()).workspace().bytes;
    });
    const auto limited = mla::make_plan(write.problem(), Device::cpu(), {.max_workspace_bytes = 512});
    EXPECT_LE(limited.workspace().bytes, 512U);
    expect_refused([&] { mla::make_plan(write.problem(), Device::cpu(), {.max_workspace_bytes = 100}); },
                   {"100", "384"});
}

TEST(WriteKv, CheckIdsRefusesSlotsOutOfTheCache) {
    Write write(KvFormat::bf16, 3, 1, 4);
    write.set_slot(1, -1);
    EXPECT_NO_THROW(write.run({.check_ids = true}));
    Write wrong(KvFormat::bf16, 3, 1, 4);
    wrong.set_slot(1, 4);
    expect_refused([&] { wrong.run({.check_ids = true}); }, {"write_kv", "`slots`[1] is 4", "0 to 3"});
    wrong.expect_right(0);
}

TEST(WriteKv, MisuseIsRefusedAndNothingWritten) {
    Write write(KvFormat::fp8_split, 3, 2, 4);
    const auto plan = mla::make_plan(write.problem(), Device::cpu());
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        mla::WriteKvArgs args = write.args();
        spoil(args);
        expect_refused([&] { mla::run(plan, args, workspace); }, texts);
        write.expect_right(0);
    };
    refuse([](auto& a) { a.tokens = 4; }, {"write_kv", "4", "3"});
    refuse([](auto& a) { a.kv.shape[1] = 511; }, {"`kv`", "511", "512"});
    refuse([](auto& a) { a.slots.dtype = DType::f32; }, {"`slots`", "f32", "i32 or i64"});
    refuse([](auto& a) { a.slots = a.slots.first_rows(2); }, {"`slots`", "[2]", "[3]"});
    refuse([](auto& a) { a.cache.scales = {}; }, {"`cache.scales`", "absent"});
    refuse([](auto& a) { a.cache.values.strides[0] = 0; }, {"`cache.values`", "overlap"});
    refuse([](auto& a) { a.kv.data = a.cache.values.data; }, {"`cache.values`", "`kv`"});
    refuse([](auto& a) { a.cache.scales.shape[2] = 7; }, {"`cache.scales`", "[2, 4, 7]"});
    refuse([&](auto& a) { a.kv.data = workspace.view().data; }, {"`workspace`", "overlaps `kv`"});
    refuse([&](auto& a) { a.cache.scales.data = workspace.view().data; }, {"`cache.scales`", "overlaps `workspace`"});
    expect_refused([&] { mla::run(plan, write.args(), {}); }, {"workspace"});
}

TEST(WriteKv, MalformedProblemsAreRefused) {
    const auto refuse = [](auto spoil, std::initializer_list<std::string> texts) {
        mla::WriteKvProblem problem{.max_tokens = 1, .dim = 64};
        spoil(problem);
        expect_refused([&] { mla::make_plan(problem, Device::cpu()); }, texts);
        EXPECT_FALSE(mla::supports(problem, Device::cpu()));
    };
    refuse([](auto& p) { p.scale = KvScale::exact; }, {"exact", "fp8_656", "bf16"});
    refuse([](auto& p) { p.page_size = -1; }, {"page_size", "-1"});
    refuse([](auto& p) { p.dtype = DType::f64; }, {"dtype", "f64"});
    refuse([](auto& p) { p.dim = 0; }, {"dim", "0"});
}

// The cache's tensors of fp8_split may be two views of the pages of fp8_584.
TEST(WriteKv, SplitViewsOfFooterPagesGiveFooterPages) {
    Write footer(KvFormat::fp8_584, 6, 2, 4);
    footer.run();
    Write split(KvFormat::fp8_584, 6, 2, 4);
    std::copy_n(footer.kv.host().as<std::byte>(), footer.kv.host().bytes(), split.kv.host().as<std::byte>());
    mla::WriteKvArgs args = split.args();
    const Tensor pages = args.cache.values;
    const std::int64_t values_shape[] = {2, 4, 576};
    const std::int64_t values_strides[] = {4 * 584, 576, 1};
    const std::int64_t scales_shape[] = {2, 4, 8};
    const std::int64_t scales_strides[] = {4 * 584, 8, 1};
    args.cache.format = KvFormat::fp8_split;
    args.cache.values = Tensor::strided(pages.data, DType::u8, values_shape, values_strides);
    args.cache.scales = Tensor::strided(pages.as<std::byte>() + 4 * 576, DType::u8, scales_shape, scales_strides);
    mla::WriteKvProblem problem = split.problem();
    problem.format = KvFormat::fp8_split;
    mla::write_kv(problem, args);
    EXPECT_EQ(copy_of(pages), copy_of(footer.cache.values.host()));
}

}  // namespace
}  // namespace tokamak::test
