// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/paged_gather.h"

#include <gtest/gtest.h>

#include <climits>

#include "core/choose.h"
#include "mla/attention_data.h"
#include "mla/contract.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"

namespace tokamak::test {
namespace {

/// PoolData brings what a gather needs: a cache whose unselected rows are NaN, positions in and out of range, a table.
struct Gather {
    std::mt19937 random{std::random_device{}()};
    PoolData pool;
    std::int64_t tokens;
    DType out_dtype;
    Argument out, num_tokens;

    Gather(const PoolCase& spec, std::int64_t tokens, std::int64_t dim, DType out_dtype, bool strided = false,
           std::int64_t spare = 0)
        : pool(spec, tokens, dim, false, strided, random), tokens(tokens), out_dtype(out_dtype) {
        const std::int64_t gap = strided ? 8 : 0;
        out = Argument(out_dtype, {tokens + spare, spec.top_k, dim}, {spec.top_k * (dim + gap) + gap, dim + gap, 1});
    }

    mla::PagedGatherProblem problem() const {
        return {.max_tokens = tokens,
                .top_k = pool.spec.top_k,
                .format = pool.spec.format,
                .dim = pool.dim,
                .page_size = pool.spec.page_size,
                .has_table = pool.spec.table,
                .out_dtype = out_dtype};
    }

    mla::PagedGatherArgs args() {
        const mla::KvPoolArgs on = pool.on(Device::cpu());
        mla::PagedGatherArgs args;
        args.tokens = tokens;
        args.num_tokens = num_tokens.on(Device::cpu());
        args.cache = on.cache;
        args.positions = on.indices;
        args.block_table = on.block_table;
        args.out = out.on(Device::cpu());
        return args;
    }

    void run(const PlanOptions& options = {}) {
        const auto plan = mla::make_plan(problem(), Device::cpu(), options);
        mla::run(plan, args(), poisoned_workspace(plan.workspace(), Device::cpu(), 0xFF));
    }

    /// Every format but fp8_656 with odd scales decodes exactly: nothing is lost but one rounding.
    void expect_right(std::int64_t live) {
        out.expect_untouched_past(live);
        std::vector<double> want;
        for (std::int64_t t = 0; t < live; ++t) {
            for (std::int64_t j = 0; j < pool.spec.top_k; ++j) {
                std::int64_t page = 0;
                std::int64_t row = 0;
                std::vector<double> values(static_cast<std::size_t>(pool.dim), 0.0);
                if (pool.resolve(t, pool.indices.at<std::int32_t>(t, j), page, row))
                    values = naive::kv_row(pool.host_cache(), page, row);
                want.insert(want.end(), values.begin(), values.end());
            }
        }
        expect_close(out.host(), want, rounding(out_dtype), "out");
    }
};

TEST(PagedGather, EveryFormatAndOutputType) {
    for (const KvFormat format :
         {KvFormat::bf16, KvFormat::fp8_656, KvFormat::fp8_584, KvFormat::fp8_split, KvFormat::mxfp4, KvFormat::f32}) {
        for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
            for (const bool table : {false, true}) {
                SCOPED_TRACE(std::string(to_string(format)) + " " + to_string(dtype) + (table ? " table" : ""));
                const std::int64_t dim = fixed_dim(format) != 0 ? fixed_dim(format) : 128;
                Gather gather({.format = format, .top_k = 11, .table = table, .masked = 0.3}, 3, dim, dtype);
                gather.run();
                gather.expect_right(3);
                gather.run({.variant = kCpuF64});
                gather.expect_right(3);
            }
        }
    }
}

TEST(PagedGather, PageSizesStridesAndSpareRows) {
    for (const std::int64_t page : {1, 2, 53, 576}) {
        Gather gather(
            {.format = KvFormat::fp8_584, .pages = 3, .page_size = page, .top_k = 20, .table = true, .page_gap = 72}, 4,
            512, DType::bf16, /*strided=*/true, /*spare=*/2);
        gather.run();
        gather.expect_right(4);
    }
}

TEST(PagedGather, AllPaddingGivesZeros) {
    Gather gather({.top_k = 9, .masked = 1.0}, 2, 64, DType::f32);
    gather.run();
    for (const std::byte byte : copy_of(gather.out.host())) ASSERT_EQ(byte, std::byte{0});
}

TEST(PagedGather, Mxfp4ScaleByte255GivesAZeroGroup) {
    Gather gather({.format = KvFormat::mxfp4, .pages = 1, .page_size = 1, .top_k = 1, .masked = 0.0}, 1, 64,
                  DType::bf16);
    gather.pool.scales.at<std::uint8_t>(0, 0, 1) = 0xFF;
    gather.run();
    for (std::int64_t d = 32; d < 64; ++d) EXPECT_EQ(element_at(gather.out.host(), 0, 0, d), 0.0);
    gather.expect_right(1);
}

TEST(PagedGather, DeviceCountOnlyLowers) {
    for (const auto& [count, live] : {std::pair{1, 1}, {-1, 0}, {50, 3}}) {
        Gather gather({.top_k = 5}, 3, 64, DType::bf16);
        gather.num_tokens = Argument(DType::i32, {1});
        gather.num_tokens.at<std::int32_t>(0) = count;
        gather.run();
        gather.expect_right(live);
    }
}

TEST(PagedGather, ConvenienceGivesTheSameBits) {
    Gather gather({.format = KvFormat::fp8_656, .top_k = 30, .table = true}, 3, 576, DType::bf16);
    gather.run();
    mla::PagedGatherArgs args = gather.args();
    args.out = {};
    const OwnedTensor owned = mla::paged_gather(gather.problem(), args);
    EXPECT_TRUE(owned.owns());
    EXPECT_EQ(copy_of(owned), copy_of(gather.out.host()));
    EXPECT_FALSE(mla::paged_gather(gather.problem(), gather.args()).owns());
}

TEST(PagedGather, WorkspaceIsExactMonotoneAndOfAnyContent) {
    Gather gather({.top_k = 30}, 3, 64, DType::bf16);
    const auto plan = mla::make_plan(gather.problem(), Device::cpu());
    expect_exact_layout(plan);
    for (const auto& content : workspace_contents(plan.workspace().bytes)) {
        OwnedWorkspace workspace(plan.workspace(), Device::cpu());
        std::copy(content.begin(), content.end(), static_cast<std::uint8_t*>(workspace.view().data));
        mla::run(plan, gather.args(), workspace);
        gather.expect_right(3);
    }
    expect_monotone([&](std::int64_t tokens) {
        mla::PagedGatherProblem problem = gather.problem();
        problem.max_tokens = tokens;
        return mla::make_plan(problem, Device::cpu()).workspace().bytes;
    });
    expect_refused([&] { mla::run(plan, gather.args(), {}); }, {"workspace", std::to_string(plan.workspace().bytes)});
}

TEST(PagedGather, CheckIdsRefusesWhatIsOtherwiseMasked) {
    Gather gather({.pages = 2, .page_size = 4, .top_k = 3, .masked = 0.0}, 1, 64, DType::bf16);
    const auto plan = mla::make_plan(gather.problem(), Device::cpu(), {.check_ids = true});
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    gather.pool.indices.at<std::int32_t>(0, 1) = -1;
    EXPECT_NO_THROW(mla::run(plan, gather.args(), workspace));
    for (const std::int32_t bad : {8, -2, INT_MAX, INT_MIN}) {
        gather.pool.indices.at<std::int32_t>(0, 1) = bad;
        gather.out = Argument(DType::bf16, {1, 3, 64});
        expect_refused([&] { mla::run(plan, gather.args(), workspace); }, {"[0, 1] is " + std::to_string(bad), "8"});
        gather.out.expect_untouched_past(0);
    }
}

TEST(PagedGather, MisuseIsRefusedAndNothingWritten) {
    Gather gather({.top_k = 3, .table = true}, 2, 64, DType::bf16);
    const auto plan = mla::make_plan(gather.problem(), Device::cpu());
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        mla::PagedGatherArgs args = gather.args();
        spoil(args);
        expect_refused([&] { mla::run(plan, args, workspace); }, texts);
        gather.out.expect_untouched_past(0);
    };
    refuse([](auto& a) { a.tokens = 3; }, {"paged_gather", "3", "2"});
    refuse([](auto& a) { a.block_table = {}; }, {"`block_table`", "absent"});
    refuse([](auto& a) { a.positions.dtype = DType::i64; }, {"`positions`", "i64", "i32"});
    refuse([](auto& a) { a.cache.format = KvFormat::fp8_656; }, {"fp8_656", "bf16"});
    refuse([](auto& a) { a.cache.dim = 128; }, {"128", "64"});
    refuse([](auto& a) { a.cache.page_size = 8; }, {"8", "16"});
    refuse([](auto& a) { a.cache.values = {}; }, {"`cache.values`", "absent"});
    refuse([](auto& a) { a.out.shape[1] = 2; }, {"`out`", "[2, 2, 64]"});
    refuse([](auto& a) { a.out = a.cache.values.reshape({32, 3, 64}); }, {"`out`", "`cache.values`"});
    refuse([](auto& a) { a.out.device = Device::cuda(); }, {"`out`", "cuda:0"});
    refuse([&](auto& a) { a.out.data = workspace.view().data; }, {"`out`", "overlaps `workspace`"});
    refuse([&](auto& a) { a.positions.data = workspace.view().data; }, {"`workspace`", "overlaps `positions`"});
    const auto physical =
        mla::make_plan({.max_tokens = 2, .top_k = 3, .dim = 64, .page_size = 16, .has_table = false}, Device::cpu());
    expect_refused([&] { mla::run(physical, gather.args(), workspace); }, {"`block_table`", "has_table"});
}

TEST(PagedGather, MalformedProblemsAreRefused) {
    const auto refuse = [](auto spoil, std::initializer_list<std::string> texts) {
        mla::PagedGatherProblem problem{.max_tokens = 1, .top_k = 2, .dim = 64};
        spoil(problem);
        expect_refused([&] { mla::make_plan(problem, Device::cpu()); }, texts);
        EXPECT_FALSE(mla::supports(problem, Device::cpu()));
    };
    refuse([](auto& p) { p.max_tokens = -1; }, {"max_tokens", "-1"});
    refuse([](auto& p) { p.top_k = -2; }, {"top_k", "-2"});
    refuse([](auto& p) { p.page_size = 0; }, {"page_size", "0"});
    refuse([](auto& p) { p.format = KvFormat::fp8_656; }, {"64", "576"});
    refuse([](auto& p) { p.out_dtype = DType::u8; }, {"out_dtype", "u8"});
}

}  // namespace
}  // namespace tokamak::test
