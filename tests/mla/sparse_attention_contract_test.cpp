// SPDX-License-Identifier: Apache-2.0
// Memory, plans, threads and misuse.
#include <gtest/gtest.h>

#include <climits>

#include "core/choose.h"
#include "mla/contract.h"
#include "mla/mla_cases.h"
#include "mla/random_tensor.h"
#include "tokamak/mla.h"

namespace tokamak::test {
namespace {

AttentionCase two_pool_case() {
    return {.name = "two_pools",
            .tokens = 5,
            .heads = 20,
            .dim = 512,
            .value_dim = 448,
            .pools = {{.format = KvFormat::fp8_584, .top_k = 70, .table = true, .lengths = true},
                      {.format = KvFormat::bf16, .page_size = 3, .top_k = 33, .lengths = true}},
            .sinks = Sinks::random};
}

struct Bits {
    std::vector<std::byte> out, lse, max_logits;
    friend bool operator==(const Bits&, const Bits&) = default;
};

Bits bits_of(const Tensor& out, const Tensor& lse, const Tensor& max_logits) {
    return {copy_of(out), copy_of(lse), copy_of(max_logits)};
}
Bits bits_of(const AttentionData& data) { return bits_of(data.out.host(), data.lse.host(), data.max_logits.host()); }

/// Fresh poisoned outputs.
void clear(AttentionData& data, std::int64_t rows) {
    data.out = Argument(data.spec.out_dtype, {rows, data.spec.heads, data.spec.value_dim});
    data.lse = Argument(DType::f32, {rows, data.spec.heads});
    data.max_logits = Argument(DType::f32, {rows, data.spec.heads});
}

Bits run_with(AttentionData& data, const mla::SparseAttentionPlan& plan, const Workspace& workspace) {
    clear(data, data.spec.tokens);
    mla::run(plan, data.args(Device::cpu()), workspace);
    data.fetch(data.spec.tokens);
    return bits_of(data);
}

TEST(SparseAttentionContract, OwningAndPreallocatedCallsGiveTheSameBits) {
    AttentionData data(two_pool_case());
    const auto plan = mla::make_plan(data.problem(), Device::cpu());
    const Bits expected = run_with(data, plan, OwnedWorkspace(plan.workspace(), Device::cpu()));
    mla::SparseAttentionArgs args = data.args(Device::cpu());
    args.out = args.lse = args.max_logits = {};
    const auto owned = mla::sparse_attention(data.problem(), args);
    EXPECT_TRUE(owned.out.owns() && owned.lse.owns() && owned.max_logits.owns());
    EXPECT_EQ(bits_of(owned.out, owned.lse, owned.max_logits), expected);

    clear(data, 5);
    const auto borrowed = mla::sparse_attention(plan, data.args(Device::cpu()));
    EXPECT_FALSE(borrowed.out.owns() || borrowed.lse.owns() || borrowed.max_logits.owns());
    EXPECT_EQ(bits_of(data), expected);

    clear(data, 5);
    args = data.args(Device::cpu());
    args.lse = args.max_logits = {};  // optional in run
    mla::run(plan, args, OwnedWorkspace(plan.workspace(), Device::cpu()));
    EXPECT_EQ(copy_of(data.out.host()), expected.out);
    data.lse.expect_untouched_past(0);
}

TEST(SparseAttentionContract, AnyWorkspaceContentAndAnyPlanSizeGiveTheSameBits) {
    AttentionData data(two_pool_case());
    const auto small = mla::make_plan(data.problem(), Device::cpu());
    const Bits expected = run_with(data, small, poisoned_workspace(small.workspace(), Device::cpu(), 0));
    for (const std::int64_t max_tokens : {5, 6, 64, 5000}) {
        const auto plan = mla::make_plan(data.problem(max_tokens), Device::cpu());
        for (const auto& content : workspace_contents(plan.workspace().bytes)) {
            const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
            std::copy(content.begin(), content.end(), static_cast<std::uint8_t*>(workspace.view().data));
            EXPECT_EQ(run_with(data, plan, workspace), expected);
        }
    }
    const auto limited =
        mla::make_plan(data.problem(), Device::cpu(), {.max_workspace_bytes = small.workspace().bytes});
    EXPECT_EQ(run_with(data, limited, OwnedWorkspace(limited.workspace(), Device::cpu())), expected);
}

TEST(SparseAttentionContract, OneWorkspaceServesOperatorsOneAfterAnother) {
    AttentionData large(two_pool_case());
    AttentionCase c = two_pool_case();
    c.tokens = 2;
    c.heads = 3;
    AttentionData small(c);
    const auto large_plan = mla::make_plan(large.problem(), Device::cpu());
    const auto small_plan = mla::make_plan(small.problem(), Device::cpu(), {.variant = kCpuF64});
    const auto write_plan = mla::make_plan(mla::WriteKvProblem{.max_tokens = 9, .dim = 576}, Device::cpu());
    const WorkspaceSize size = max_of(large_plan, small_plan, write_plan);
    EXPECT_EQ(size.bytes,
              std::max({large_plan.workspace().bytes, small_plan.workspace().bytes, write_plan.workspace().bytes}));
    const OwnedWorkspace shared(size, Device::cpu());
    const Bits of_large = run_with(large, large_plan, OwnedWorkspace(large_plan.workspace(), Device::cpu()));
    const Bits of_small = run_with(small, small_plan, OwnedWorkspace(small_plan.workspace(), Device::cpu()));
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(run_with(large, large_plan, shared), of_large);
        EXPECT_EQ(run_with(small, small_plan, shared), of_small);
    }
}

TEST(SparseAttentionContract, WorkspaceIsExactAndMonotone) {
    AttentionData data(two_pool_case());
    for (const char* variant : {kCpuF32, kCpuF64}) {
        expect_exact_layout(mla::make_plan(data.problem(), Device::cpu(), {.variant = variant}));
        expect_monotone([&](std::int64_t tokens) {
            mla::SparseAttentionProblem problem = data.problem();
            problem.max_tokens = tokens;
            return mla::make_plan(problem, Device::cpu(), {.variant = variant}).workspace().bytes;
        });
    }
    expect_refused([&] { mla::make_plan(data.problem(), Device::cpu(), {.max_workspace_bytes = 1000}); },
                   {"max_workspace_bytes", "1000", "smallest workable"});
}

TEST(SparseAttentionContract, DeviceCountOnlyLowersAndSpareRowsStay) {
    for (const auto& [count, live] : {std::pair{2, 2}, {0, 0}, {INT_MIN, 0}, {5, 5}, {INT_MAX, 5}}) {
        AttentionCase c = two_pool_case();
        c.spare_rows = 3;
        AttentionData data(c);
        Argument num_tokens(DType::i32, {1});
        num_tokens.at<std::int32_t>(0) = count;
        mla::SparseAttentionArgs args = data.args(Device::cpu());
        args.num_tokens = num_tokens.on(Device::cpu());
        mla::sparse_attention(data.problem(), args);
        data.fetch(live);
        data.spec.tokens = live;
        const AttentionExpected expected = data.expected();
        expect_close(data.out.host(), expected.out, out_tolerance(KvFormat::bf16, Accumulation::f32, DType::bf16),
                     "out");
        expect_close(data.lse.host(), expected.lse, lse_tolerance(Accumulation::f32), "lse");
    }
}

// The order of summation of a head depends on nothing but its own token.
TEST(SparseAttentionContract, TokensAndHeadsDoNotSeeEachOther) {
    AttentionData data(two_pool_case());
    mla::sparse_attention(data.problem(), data.args(Device::cpu()));
    for (std::int64_t token : {0, 3}) {
        for (std::int64_t head : {0, 19}) {
            mla::SparseAttentionProblem problem = data.problem();
            mla::SparseAttentionArgs args = data.args(Device::cpu());
            args.out = args.lse = args.max_logits = {};
            problem.heads = 1;
            args.tokens = 1;
            args.q = Tensor(args.q.at(token).at(head).data, DType::bf16, {1, 1, 512});
            args.sink = Tensor(args.sink.as<float>() + head, DType::f32, {1});
            for (mla::KvPoolArgs& pool : args.pools) {
                pool.indices = Tensor(pool.indices.at(token).data, DType::i32, {1, pool.indices.shape[1]});
                pool.lengths = Tensor(pool.lengths.as<std::int32_t>() + token, DType::i32, {1});
                if (pool.block_table.present)
                    pool.block_table =
                        Tensor(pool.block_table.at(token).data, DType::i32, {1, pool.block_table.shape[1]});
            }
            const auto alone = mla::sparse_attention(problem, args);
            EXPECT_EQ(copy_of(alone.out.view().at(0)),
                      copy_of(Tensor(data.out.host().at(token).at(head).data, DType::bf16, {1, 448})));
            EXPECT_EQ(alone.lse.as<float>()[0], data.lse.at<float>(token, head));
        }
    }
}

TEST(SparseAttentionContract, TwoThreadsShareAPlan) {
    AttentionData first(two_pool_case());
    AttentionData second(two_pool_case());
    const auto plan = mla::make_plan(first.problem(), Device::cpu());
    AttentionData* const data[] = {&first, &second};
    Bits expected[2];
    Bits got[2];
    for (int i : {0, 1}) expected[i] = run_with(*data[i], plan, OwnedWorkspace(plan.workspace(), Device::cpu()));
    in_threads(2, [&](int i) {
        const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
        for (int repeat = 0; repeat < 3; ++repeat) got[i] = run_with(*data[i], plan, workspace);
    });
    for (int i : {0, 1}) EXPECT_EQ(got[i], expected[i]);
}

TEST(SparseAttentionContract, CheckIdsRefusesWhatIsOtherwiseMasked) {
    AttentionData data(
        {.name = "ids", .tokens = 2, .dim = 64, .value_dim = 64, .pools = {{.top_k = 5, .lengths = true}}});
    const auto plan = mla::make_plan(data.problem(), Device::cpu(), {.check_ids = true});
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    for (std::int64_t t = 0; t < 2; ++t) {
        data.pools[0].lengths.at<std::int32_t>(t) = 4;
        for (std::int64_t j = 0; j < 5; ++j) data.pools[0].indices.at<std::int32_t>(t, j) = j == 4 ? INT_MAX : -1;
    }
    EXPECT_NO_THROW(mla::run(plan, data.args(Device::cpu()), workspace));  // padding; garbage past the length
    for (const std::int32_t bad : {96, -2, INT_MIN}) {
        clear(data, 2);
        data.pools[0].indices.at<std::int32_t>(1, 3) = bad;
        expect_refused([&] { mla::run(plan, data.args(Device::cpu()), workspace); },
                       {"pools[0].indices", "[1, 3] is " + std::to_string(bad), "96"});
        data.fetch(0);
    }
}

TEST(SparseAttentionContract, MisuseIsRefusedAndNothingWritten) {
    AttentionData data(two_pool_case());
    const auto plan = mla::make_plan(data.problem(), Device::cpu());
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        mla::SparseAttentionArgs a = data.args(Device::cpu());
        spoil(a);
        expect_refused([&] { mla::run(plan, a, workspace); }, texts);
        expect_refused([&] { mla::sparse_attention(plan, a, workspace); }, texts);
        data.fetch(0);
    };
    refuse([](auto& a) { a.tokens = 6; }, {"sparse_attention", "6", "5"});
    refuse([](auto& a) { a.tokens = -1; }, {"`tokens`", "-1"});
    refuse([](auto& a) { a.tokens = 4; }, {"`q`", "[5, 20, 512]", "[4, 20, 512]"});
    refuse([](auto& a) { a.q.dtype = DType::f16; }, {"`q`", "f16", "bf16"});
    refuse([](auto& a) { a.q.strides[2] = 2; }, {"`q`", "contiguous"});
    refuse([](auto& a) { a.q.data = nullptr; }, {"`q`", "null"});
    refuse([](auto& a) { a.q.data = a.q.template as<std::byte>() + 1; }, {"`q`", "alignment"});
    refuse([](auto& a) { a.q.device = Device::cuda(1); }, {"`q`", "cuda:1", "cpu"});
    refuse([](auto& a) { a.pools.pop_back(); }, {"`pools`", "1", "2"});
    refuse([](auto& a) { a.pools[1].indices = {}; }, {"`pools[1].indices`", "absent"});
    refuse([](auto& a) { a.pools[1].indices.shape[1] = 32; }, {"`pools[1].indices`", "[5, 32]", "[5, 33]"});
    refuse([](auto& a) { a.pools[0].lengths = {}; }, {"`pools[0].lengths`", "absent"});
    refuse([](auto& a) { a.pools[0].block_table = {}; }, {"`pools[0].block_table`", "absent"});
    refuse([](auto& a) { a.pools[1].block_table = a.pools[0].block_table; }, {"`pools[1].block_table`", "has_table"});
    refuse([](auto& a) { a.pools[0].cache.values = a.pools[0].cache.values.first_rows(5); }, {"80", "96"});
    refuse([](auto& a) { a.pools[0].cache.format = KvFormat::fp8_split; }, {"fp8_split", "fp8_584"});
    refuse([](auto& a) { a.pools[1].cache.scales = a.pools[1].cache.values; }, {"`pools[1].cache.scales`"});
    refuse([](auto& a) { a.sink.shape[0] = 19; }, {"`sink`", "[19]", "[20]"});
    refuse([](auto& a) { a.lse.dtype = DType::f64; }, {"`lse`", "f64", "f32"});
    refuse([](auto& a) { a.out = a.out.first_rows(4); }, {"`out`", "[4, 20, 448]", ">= 5"});
    refuse([](auto& a) { a.out.strides[0] = 0; }, {"`out`", "overlap"});
    refuse([](auto& a) { a.out.dtype = DType::f16; }, {"`out`", "f16", "bf16"});
    refuse([](auto& a) { a.lse.shape[1] = 21; }, {"`lse`", "[5, 21]"});
    refuse([](auto& a) { a.out.data = a.q.data; }, {"`out`", "`q`"});
    refuse([](auto& a) { a.max_logits.data = a.lse.data; }, {"`lse`", "`max_logits`"});
    refuse([](auto& a) { a.num_tokens = Tensor(&a.tokens, DType::i64, {1}); }, {"`num_tokens`", "i64", "i32"});
}

TEST(SparseAttentionContract, UnfitWorkspacesAreRefused) {
    AttentionData data(two_pool_case());
    const auto plan = mla::make_plan(data.problem(), Device::cpu());
    const OwnedWorkspace good(plan.workspace(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        Workspace workspace = good;
        spoil(workspace);
        expect_refused([&] { mla::run(plan, data.args(Device::cpu()), workspace); }, texts);
        data.fetch(0);
    };
    refuse([](auto& w) { w.bytes -= 1; },
           {std::to_string(plan.workspace().bytes), std::to_string(plan.workspace().bytes - 1)});
    refuse([](auto& w) { w.data = nullptr; }, {"null"});
    refuse([](auto& w) { w.data = static_cast<std::byte*>(w.data) + 16; }, {"alignment"});
    refuse([](auto& w) { w.device = Device::cuda(); }, {"cuda:0"});
    // Bytes without memory are a mistake, not a workspace that was left out.
    Workspace nowhere = good;
    nowhere.data = nullptr;
    expect_refused([&] { mla::sparse_attention(plan, data.args(Device::cpu()), nowhere); }, {"`workspace`", "null"});
}

TEST(SparseAttentionContract, ArgumentsInTheWorkspaceAreRefused) {
    AttentionData data(two_pool_case());
    const auto plan = mla::make_plan(data.problem(), Device::cpu());
    // Room behind what the plan needs: whoever lies there is not in the way.
    const OwnedWorkspace workspace({plan.workspace().bytes + (1 << 20), 256}, Device::cpu());
    auto* const begin = static_cast<std::byte*>(workspace.view().data);
    const auto with = [&](Tensor mla::SparseAttentionArgs::*argument, std::byte* at) {
        mla::SparseAttentionArgs args = data.args(Device::cpu());
        (args.*argument).data = at;
        mla::run(plan, args, workspace);
    };
    using Args = mla::SparseAttentionArgs;
    expect_refused([&] { with(&Args::out, begin); }, {"`out`", "overlaps `workspace`"});
    expect_refused([&] { with(&Args::lse, begin + 256); }, {"`lse`", "overlaps `workspace`"});
    expect_refused([&] { with(&Args::q, begin); }, {"`workspace`", "overlaps `q`"});
    mla::SparseAttentionArgs args = data.args(Device::cpu());
    args.pools[1].indices.data = begin;
    expect_refused([&] { mla::run(plan, args, workspace); }, {"`workspace`", "overlaps `pools[1].indices`"});
    data.fetch(0);
    EXPECT_NO_THROW(with(&Args::out, begin + (plan.workspace().bytes + 255) / 256 * 256));
}

TEST(SparseAttentionContract, MalformedProblemsAreRefused) {
    const auto refuse = [](auto spoil, std::initializer_list<std::string> texts) {
        mla::SparseAttentionProblem problem = AttentionData(two_pool_case()).problem();
        spoil(problem);
        expect_refused([&] { mla::make_plan(problem, Device::cpu()); }, texts);
        const Support support = mla::supports(problem, Device::cpu());
        EXPECT_FALSE(support);
        EXPECT_NE(support.reason.find(*texts.begin()), std::string::npos);
    };
    refuse([](auto& p) { p.max_tokens = -1; }, {"max_tokens", "-1"});
    refuse([](auto& p) { p.heads = 0; }, {"heads", "0", "1 to 128"});
    refuse([](auto& p) { p.heads = 129; }, {"heads", "129", "1 to 128"});
    refuse([](auto& p) { p.dim = 576; }, {"dim", "576", "fp8_584", "512"});
    refuse([](auto& p) { p.value_dim = 513; }, {"value_dim", "513", "512"});
    refuse([](auto& p) { p.value_dim = 0; }, {"value_dim", "0"});
    refuse([](auto& p) { p.pools.clear(); }, {"pools.size()", "0", "1 to 2"});
    refuse([](auto& p) { p.pools.push_back(p.pools[0]); }, {"pools.size()", "3"});
    refuse([](auto& p) { p.pools[1].rows = 17; }, {"pools[1].rows", "17", "3"});
    refuse([](auto& p) { p.pools[0].page_size = 0; }, {"pools[0].page_size", "0"});
    refuse([](auto& p) { p.pools[0].top_k = -1; }, {"pools[0].top_k", "-1"});
    refuse([](auto& p) { p.q_dtype = DType::e4m3; }, {"q_dtype", "e4m3"});
    refuse([](auto& p) { p.out_dtype = DType::i32; }, {"out_dtype", "i32"});
    refuse([](auto& p) { p.pools[1].format = KvFormat::fp8_656; }, {"fp8_656", "576"});
}

TEST(SparseAttentionContract, VariantsAndDoubleOutput) {
    mla::SparseAttentionProblem problem = AttentionData(two_pool_case()).problem(64);
    const auto plan = mla::make_plan(problem, Device::cpu());
    EXPECT_EQ(plan.row_for(5).variant, kCpuF32);
    EXPECT_EQ(plan.op(), "sparse_attention");
    EXPECT_NE(plan.explain().find("scores"), std::string::npos);
    expect_refused([&] { mla::make_plan(problem, Device::cpu(), {.variant = "cuda_x"}); }, {"cuda_x", kCpuF64});
    problem.out_dtype = DType::f64;
    EXPECT_EQ(mla::make_plan(problem, Device::cpu()).row_for(64).variant, kCpuF64);
    EXPECT_EQ(mla::make_plan(problem, Device::cpu(), {.variant = kCpuF64}).row_for(64).variant, kCpuF64);
    expect_refused([&] { mla::make_plan(problem, Device::cpu(), {.variant = kCpuF32}); },
                   {"`out_dtype` is f64", kCpuF32, kCpuF64});
}

TEST(SparseAttentionContract, CudaIsRefusedWithTheReason) {
    const mla::SparseAttentionProblem problem = AttentionData(two_pool_case()).problem();
    const Support support = mla::supports(problem, Device::cuda());
    if (support.ok) GTEST_SKIP() << "this build has CUDA kernels";
    EXPECT_NE(support.reason.find("sparse_attention"), std::string::npos);
    expect_refused([&] { mla::make_plan(problem, Device::cuda()); }, {support.reason}, ErrorCode::unsupported);
}

TEST(SparseAttentionContract, EmptyBatchWithNullTensors) {
    mla::SparseAttentionProblem problem = AttentionData(two_pool_case()).problem();
    problem.max_tokens = 0;
    problem.pools.resize(1);
    problem.pools[0] = {.rows = 0, .page_size = 4, .top_k = 7};
    const auto plan = mla::make_plan(problem, Device::cpu());
    EXPECT_EQ(plan.workspace().bytes, 0U);
    mla::SparseAttentionArgs args;
    args.q = Tensor(nullptr, DType::bf16, {0, 20, 512});
    args.pools.resize(1);
    args.pools[0].cache = {KvFormat::bf16, 512, 4, Tensor(nullptr, DType::bf16, {0, 4, 512}), {}};
    args.pools[0].indices = Tensor(nullptr, DType::i32, {0, 7});
    args.out = Tensor(nullptr, DType::bf16, {0, 20, 448});
    EXPECT_NO_THROW(mla::run(plan, args, {}));
}

}  // namespace
}  // namespace tokamak::test
