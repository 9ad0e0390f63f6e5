// SPDX-License-Identifier: Apache-2.0
// What a captured, replayed or concurrent call of sparse_attention on the GPU promises.
#include <gtest/gtest.h>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "mla/mla_cases.h"

namespace tokamak::test {
namespace {

AttentionCase serving_case(std::int64_t tokens) {
    return {.name = "serving",
            .tokens = tokens,
            .heads = 24,
            .dim = 512,
            .pools = {{.format = KvFormat::fp8_584, .pages = 4, .page_size = 64, .top_k = 128, .lengths = true},
                      {.format = KvFormat::fp8_584, .pages = 40, .page_size = 16, .top_k = 320, .lengths = true}},
            .sinks = Sinks::random};
}

/// Same inputs on the device under changed values: the pointers of a captured call stay.
void overwrite(const Tensor& device_view, const Argument& with) {
    if (!with.host().present) return;
    copy_bytes(device_view.data, Device::cuda(), with.host().data, Device::cpu(), with.host().bytes());
}

void overwrite_inputs(const mla::SparseAttentionArgs& captured, const AttentionData& data) {
    overwrite(captured.q, data.q);
    overwrite(captured.sink, data.sink);
    for (std::size_t p = 0; p < data.pools.size(); ++p) {
        overwrite(captured.pools[p].cache.values, data.pools[p].values);
        overwrite(captured.pools[p].indices, data.pools[p].indices);
        overwrite(captured.pools[p].lengths, data.pools[p].lengths);
    }
}

std::vector<std::string> variants(const AttentionCase& c) {
    return mla::make_plan(AttentionData(c, 1).problem(), Device::cuda()).state().variants;
}

void poison(const Tensor& tensor) { fill_bytes(tensor.data, Device::cuda(), 0xC5, tensor.bytes()); }

void poison_outputs(const mla::SparseAttentionArgs& args) {
    poison(args.out);
    poison(args.lse);
    poison(args.max_logits);
}

/// The first `tokens` rows are right, the others untouched.
void expect_rows(AttentionData& data, std::int64_t tokens) {
    data.fetch(tokens);
    AttentionExpected expected = data.expected();
    expected.out.resize(static_cast<std::size_t>(tokens * data.spec.heads * data.spec.value_dim));
    expected.lse.resize(static_cast<std::size_t>(tokens * data.spec.heads));
    expect_close(data.out.host(), expected.out, out_tolerance(KvFormat::fp8_584, Accumulation::tensor, DType::bf16),
                 "out");
    expect_close(data.lse.host(), expected.lse, lse_tolerance(Accumulation::tensor), "lse");
}

TEST(SparseAttentionGpuContract, ReplaysWithChangedInputs) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = serving_case(5);
    for (const std::string& variant : variants(c)) {
        SCOPED_TRACE(variant);
        AttentionData data(c);
        const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
        const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        const mla::SparseAttentionArgs args = data.args(Device::cuda());
        const cuda::OwnedStream stream;
        const cuda::CapturedGraph graph(stream, [&] { mla::run(plan, args, workspace, stream.stream()); });
        EXPECT_EQ(graph.nodes(), 1U);
        for (int round = 0; round < 2; ++round) {
            const AttentionData other(c);
            overwrite_inputs(args, other);
            poison_outputs(args);
            synchronize(Device::cuda());
            graph.replay();
            synchronize(Device::cuda(), stream.stream());
            data.fetch(c.tokens);
            const AttentionExpected expected = other.expected();
            expect_close(data.out.host(), expected.out,
                         out_tolerance(KvFormat::fp8_584, Accumulation::tensor, DType::bf16), "out");
            expect_close(data.lse.host(), expected.lse, lse_tolerance(Accumulation::tensor), "lse");
        }
    }
}

TEST(SparseAttentionGpuContract, DeviceCountOnlyLowersTheCall) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = serving_case(7);
    for (const std::string& variant : variants(c)) {
        for (const std::int32_t count : {-3, 0, 1, 4, 7, 900}) {
            SCOPED_TRACE(variant + ", count " + std::to_string(count));
            AttentionData data(c);
            const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
            mla::SparseAttentionArgs args = data.args(Device::cuda());
            const OwnedTensor on_device = OwnedTensor::copy_of(Tensor(&count, DType::i32, {1}), Device::cuda());
            args.num_tokens = on_device;
            const OwnedWorkspace workspace(plan.workspace(), Device::cuda());
            mla::run(plan, args, workspace);
            synchronize(Device::cuda());
            expect_rows(data, std::clamp<std::int64_t>(count, 0, 7));
        }
    }
}

TEST(SparseAttentionGpuContract, SameBitsAgainAndInEveryMode) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = serving_case(6);
    for (const std::string& variant : variants(c)) {
        SCOPED_TRACE(variant);
        AttentionData data(c);
        const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
        mla::SparseAttentionArgs args = data.args(Device::cuda());
        const OwnedWorkspace workspace(plan.workspace(), Device::cuda());
        mla::run(plan, args, workspace);
        synchronize(Device::cuda());
        const OwnedTensor first = OwnedTensor::copy_of(args.out);
        for (int again = 0; again < 3; ++again) {
            poison_outputs(args);
            mla::SparseAttentionArgs own = args;
            own.out = own.lse = own.max_logits = {};
            const auto result = mla::sparse_attention(plan, own);
            synchronize(Device::cuda());
            const OwnedTensor second = OwnedTensor::copy_of(result.out);
            EXPECT_EQ(std::memcmp(first.view().data, second.view().data, first.view().bytes()), 0);
        }
    }
}

TEST(SparseAttentionGpuContract, TwoStreamsAtOnce) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = serving_case(9);
    AttentionData a(c);
    AttentionData b(c);
    const auto plan = mla::make_plan(a.problem(), Device::cuda());
    const mla::SparseAttentionArgs args_a = a.args(Device::cuda());
    const mla::SparseAttentionArgs args_b = b.args(Device::cuda());
    const OwnedWorkspace of_a(plan.workspace(), Device::cuda());
    const OwnedWorkspace of_b(plan.workspace(), Device::cuda());
    const cuda::OwnedStream one;
    const cuda::OwnedStream two;
    for (int round = 0; round < 20; ++round) {
        mla::run(plan, args_a, of_a, one.stream());
        mla::run(plan, args_b, of_b, two.stream());
    }
    synchronize(Device::cuda(), one.stream());
    synchronize(Device::cuda(), two.stream());
    expect_rows(a, c.tokens);
    expect_rows(b, c.tokens);
}

/// A grid has 65,535 rows; the forms that have a row for each token go on in another dimension. Four tokens of a call
/// give the bits that they give alone.
void expect_more_tokens(KvFormat format, const std::string& variant) {
    SCOPED_TRACE(variant);
    constexpr std::int64_t kTokens = 65'540;
    constexpr std::int64_t kHeads = 33;
    const std::int64_t places[] = {0, 65'534, 65'535, kTokens - 1};
    const PoolCase pool = {.format = format, .pages = 5, .page_size = 64, .top_k = 72};
    AttentionData data({.name = "four", .tokens = 4, .heads = kHeads, .dim = 576, .pools = {pool}});
    mla::SparseAttentionArgs args = data.args(Device::cuda());
    args.lse = args.max_logits = {};
    const PlanOptions options = {.variant = variant};
    mla::run(mla::make_plan(data.problem(), Device::cuda(), options), args, {});
    const OwnedTensor alone = OwnedTensor::copy_of(args.out);

    const auto copy_row = [](const Tensor& to, const Tensor& from) {
        copy_bytes(to.data, to.device, from.data, from.device, from.bytes());
    };
    const OwnedTensor q = OwnedTensor::allocate(DType::bf16, {kTokens, kHeads, 576}, Device::cuda());
    const OwnedTensor indices = OwnedTensor::allocate(DType::i32, {kTokens, pool.top_k}, Device::cuda());
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {kTokens, kHeads, 512}, Device::cuda());
    for (const OwnedTensor* zeros : {&q, &indices})
        fill_bytes(zeros->view().data, Device::cuda(), 0, zeros->view().bytes());
    poison(out);
    for (std::int64_t i = 0; i < 4; ++i) {
        copy_row(q.view().at(places[i]), args.q.at(i));
        copy_row(indices.view().at(places[i]), args.pools[0].indices.at(i));
    }
    args.tokens = kTokens;
    args.q = q;
    args.out = out;
    args.pools[0].indices = indices;
    mla::SparseAttentionProblem problem = data.problem();
    problem.max_tokens = kTokens;
    mla::run(mla::make_plan(problem, Device::cuda(), options), args, {});
    for (std::int64_t i = 0; i < 4; ++i) {
        const OwnedTensor row = OwnedTensor::copy_of(out.view().at(places[i]));
        EXPECT_EQ(std::memcmp(row.view().data, alone.view().at(i).data, row.view().bytes()), 0) << places[i];
    }
}

TEST(SparseAttentionGpuContract, MoreTokensThanAGridHasRows) {
    TOKAMAK_REQUIRE_GPU();
    expect_more_tokens(KvFormat::fp8_656, "direct_decode_h64_s1");
    expect_more_tokens(KvFormat::bf16, "paired_decode_h64_s1");
    expect_more_tokens(KvFormat::bf16, "paired_decode_h64_s2");
}

/// A cache, and the same one behind so many pages that offsets into it need more than 32 bits: the same bits.
void expect_same_bits_past_4_gib(const AttentionCase& c) {
    const PoolCase& pool = c.pools[0];
    AttentionData data(c);
    mla::SparseAttentionProblem problem = data.problem();
    mla::SparseAttentionArgs args = data.args(Device::cuda());
    const Tensor cache = args.pools[0].cache.values;
    const std::int64_t before = (std::int64_t{5} << 30) / static_cast<std::int64_t>(cache.at(0).bytes());
    std::vector<std::int64_t> shape(cache.shape.begin(), cache.shape.begin() + cache.rank);
    shape[0] += before;
    const OwnedTensor far_cache = OwnedTensor::allocate(cache.dtype, shape, Device::cuda());
    copy_bytes(far_cache.view().at(before).data, Device::cuda(), cache.data, Device::cuda(), cache.bytes());
    Argument& indices = data.pools[0].indices;
    const OwnedTensor near_indices = OwnedTensor::copy_of(indices.host(), Device::cuda());
    for (std::int64_t t = 0; t < c.tokens; ++t)
        for (std::int64_t j = 0; j < pool.top_k; ++j)
            indices.at<std::int32_t>(t, j) += static_cast<std::int32_t>(before * pool.page_size);
    const OwnedTensor far_indices = OwnedTensor::copy_of(indices.host(), Device::cuda());
    const auto run = [&](const std::string& variant, bool far) {
        problem.pools[0].rows = (shape[0] - (far ? 0 : before)) * pool.page_size;
        args.pools[0].cache.values = far ? far_cache.view() : cache;
        args.pools[0].indices = far ? far_indices : near_indices;
        poison_outputs(args);
        const auto plan = mla::make_plan(problem, Device::cuda(), {.variant = variant});
        mla::run(plan, args, poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF));
        synchronize(Device::cuda());
        return OwnedTensor::copy_of(args.out);
    };
    for (const std::string& variant : variants(c)) {
        const OwnedTensor near = run(variant, false);
        const OwnedTensor far = run(variant, true);
        EXPECT_EQ(std::memcmp(far.view().data, near.view().data, near.view().bytes()), 0) << c.name << " " << variant;
    }
}

TEST(SparseAttentionGpuContract, PoolsPast4GiB) {
    TOKAMAK_REQUIRE_GPU();
    const PoolCase pool = {.pages = 5, .page_size = 64, .top_k = 200, .masked = 0.0};
    for (const auto& [name, dim, format] : {std::tuple("far_bf16", 576, KvFormat::bf16),
                                            {"far_fp8_656", 576, KvFormat::fp8_656},
                                            {"far_fp8_584", 512, KvFormat::fp8_584}}) {
        AttentionCase c = {.name = name, .tokens = 2, .heads = 70, .dim = dim, .pools = {pool}};
        c.pools[0].format = format;
        expect_same_bits_past_4_gib(c);
    }
}

TEST(SparseAttentionGpuContract, RefusesWithTheReason) {
    TOKAMAK_REQUIRE_GPU();
    mla::SparseAttentionProblem problem = AttentionData(serving_case(1)).problem();
    problem.dim = problem.value_dim = 640;
    problem.pools = {{KvFormat::bf16, 64, 16, 8}};
    EXPECT_NE(mla::supports(problem, Device::cuda()).reason.find("`dim` is 640"), std::string::npos);
    EXPECT_THROW((void)mla::make_plan(problem, Device::cuda()), Error);
}

}  // namespace
}  // namespace tokamak::test
