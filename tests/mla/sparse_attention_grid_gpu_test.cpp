// SPDX-License-Identifier: Apache-2.0
// Splits that are no cluster and exchange their sums by way of the workspace: what that promises.
#include <gtest/gtest.h>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "mla/cuda/sparse_attention_choose.h"
#include "mla/mla_cases.h"

namespace tokamak::test {
namespace {

/// Rows of 576, or of 512 in two pools, of which the first one ends inside a share.
AttentionCase grid_case(std::int64_t tokens, std::int64_t dim) {
    if (dim == 512)
        return {.name = "grid_512",
                .tokens = tokens,
                .heads = 60,
                .dim = dim,
                .pools = {{.format = KvFormat::fp8_584, .pages = 4, .page_size = 256, .top_k = 128, .lengths = true},
                          {.format = KvFormat::fp8_584, .pages = 90, .page_size = 16, .top_k = 512, .lengths = true}},
                .sinks = Sinks::random};
    return {.name = "grid",
            .tokens = tokens,
            .heads = 70,
            .dim = dim,
            .pools = {{.format = KvFormat::fp8_656, .pages = 30, .page_size = 64, .top_k = 1200, .lengths = true}},
            .sinks = Sinks::random};
}

std::vector<std::string> grid_variants(const AttentionCase& c) {
    std::vector<std::string> names;
    const auto plan = mla::make_plan(AttentionData(c, 1).problem(), Device::cuda());
    for (const mla::cuda::SparseConfig& config : mla::cuda::all_configs())
        if (config.grid && std::ranges::count(plan.state().variants, to_string(config)) > 0)
            names.push_back(to_string(config));
    return names;
}

/// Without max_logits, for which another kernel runs.
mla::SparseAttentionArgs grid_args(AttentionData& data) {
    mla::SparseAttentionArgs args = data.args(Device::cuda());
    args.max_logits = {};
    return args;
}

void expect_right(AttentionData& data) {
    data.fetch(data.spec.tokens);
    const AttentionExpected expected = data.expected();
    expect_close(data.out.host(), expected.out,
                 out_tolerance(data.spec.pools[0].format, Accumulation::tensor, DType::bf16), "out");
    expect_close(data.lse.host(), expected.lse, lse_tolerance(Accumulation::tensor), "lse");
}

/// Parameter: the width of rows.
class SparseAttentionGrid : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Mla, SparseAttentionGrid, testing::Values(512, 576));

/// Calls of more tokens than run at once are several launches, one after the other.
TEST_P(SparseAttentionGrid, AnyWorkspaceAnyTokensTheSameBits) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::int64_t tokens : {1, 3, 9, 16}) {
        const AttentionCase c = grid_case(tokens, GetParam());
        const auto names = grid_variants(c);
        EXPECT_FALSE(names.empty());
        for (const std::string& variant : names) {
            SCOPED_TRACE(variant + ", tokens " + std::to_string(tokens));
            AttentionData data(c);
            const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
            const mla::SparseAttentionArgs args = grid_args(data);
            EXPECT_GT(plan.workspace().bytes, 0U);
            OwnedTensor first;
            for (const int content : {0xFF, 0x00, 0x01, 0x7F, 0x3C}) {
                const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), content);
                fill_bytes(args.out.data, Device::cuda(), 0xC5, args.out.bytes());
                synchronize(Device::cuda());
                mla::run(plan, args, workspace);
                mla::run(plan, args, workspace);  // what the first one left
                synchronize(Device::cuda());
                OwnedTensor out = OwnedTensor::copy_of(args.out);
                if (content == 0xFF)
                    first = std::move(out);
                else
                    EXPECT_EQ(std::memcmp(first.view().data, out.view().data, out.view().bytes()), 0);
            }
            expect_right(data);
        }
    }
}

/// Calls with other data in turn, in one workspace: what one left is never taken for what another awaits.
TEST_P(SparseAttentionGrid, WhatAnotherCallLeftIsNotRead) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = grid_case(8, GetParam());
    for (const std::string& variant : grid_variants(c)) {
        SCOPED_TRACE(variant);
        AttentionData data[] = {AttentionData(c), AttentionData(c)};
        const auto plan = mla::make_plan(data[0].problem(), Device::cuda(), {.variant = variant});
        const mla::SparseAttentionArgs args[] = {grid_args(data[0]), grid_args(data[1])};
        OwnedTensor alone[2];
        for (int i = 0; i < 2; ++i) {
            const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
            synchronize(Device::cuda());
            mla::run(plan, args[i], workspace);
            synchronize(Device::cuda());
            alone[i] = OwnedTensor::copy_of(args[i].out);
        }
        const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        synchronize(Device::cuda());
        for (int call = 0; call < 400; ++call) mla::run(plan, args[call % 2], workspace);
        synchronize(Device::cuda());
        for (int i = 0; i < 2; ++i) {
            const OwnedTensor out = OwnedTensor::copy_of(args[i].out);
            EXPECT_EQ(std::memcmp(alone[i].view().data, out.view().data, out.view().bytes()), 0);
            expect_right(data[i]);
        }
    }
}

/// Flags of 64 heads are put back by those who read them: what a launch leaves keeps no later one from waiting.
TEST_P(SparseAttentionGrid, LeavesNoFlagRaised) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = grid_case(9, GetParam());
    for (const std::string& variant : grid_variants(c)) {
        if (!variant.starts_with("grid_decode_h64")) continue;
        SCOPED_TRACE(variant);
        AttentionData data(c);
        const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
        const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        synchronize(Device::cuda());
        mla::run(plan, grid_args(data), workspace);
        synchronize(Device::cuda());
        std::vector<std::uint64_t> words(plan.workspace().bytes / sizeof(std::uint64_t));
        copy_bytes(words.data(), Device::cpu(), static_cast<Workspace>(workspace).data, Device::cuda(),
                   words.size() * sizeof(std::uint64_t));
        EXPECT_EQ(std::ranges::count(words, 0x9E3779B97F4A7C15U), 0);
        EXPECT_GT(std::ranges::count(words, 0U), 0);
    }
}

TEST_P(SparseAttentionGrid, TwoStreamsAtOnceDoNotWaitForEver) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = grid_case(4, GetParam());
    for (const std::string& variant : grid_variants(c)) {
        SCOPED_TRACE(variant);
        AttentionData a(c);
        AttentionData b(c);
        const auto plan = mla::make_plan(a.problem(), Device::cuda(), {.variant = variant});
        const mla::SparseAttentionArgs args_a = grid_args(a);
        const mla::SparseAttentionArgs args_b = grid_args(b);
        const OwnedWorkspace of_a = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        const OwnedWorkspace of_b = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        synchronize(Device::cuda());
        const cuda::OwnedStream one;
        const cuda::OwnedStream two;
        for (int round = 0; round < 50; ++round) {
            mla::run(plan, args_a, of_a, one.stream());
            mla::run(plan, args_b, of_b, two.stream());
        }
        synchronize(Device::cuda(), one.stream());
        synchronize(Device::cuda(), two.stream());
        expect_right(a);
        expect_right(b);
    }
}

TEST_P(SparseAttentionGrid, ReplaysAndADeviceCount) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = grid_case(8, GetParam());
    for (const std::string& variant : grid_variants(c)) {
        SCOPED_TRACE(variant);
        AttentionData data(c);
        const auto plan = mla::make_plan(data.problem(), Device::cuda(), {.variant = variant});
        mla::SparseAttentionArgs args = grid_args(data);
        OwnedTensor count = OwnedTensor::allocate(DType::i32, {1}, Device::cuda());
        args.num_tokens = count;
        const OwnedWorkspace workspace = poisoned_workspace(plan.workspace(), Device::cuda(), 0xFF);
        const cuda::OwnedStream stream;
        const cuda::CapturedGraph graph(stream, [&] { mla::run(plan, args, workspace, stream.stream()); });
        const std::size_t token_bytes = args.out.bytes() / 8;
        for (const std::int32_t tokens : {0, 5, 8, 1}) {
            copy_bytes(count.view().data, Device::cuda(), &tokens, Device::cpu(), sizeof(tokens));
            fill_bytes(args.out.data, Device::cuda(), 0xC5, args.out.bytes());
            synchronize(Device::cuda());
            graph.replay();
            synchronize(Device::cuda(), stream.stream());
            const OwnedTensor out = OwnedTensor::copy_of(args.out);
            for (std::int32_t t = 0; t < 8; ++t)
                EXPECT_EQ(out.as<std::uint8_t>()[static_cast<std::size_t>(t + 1) * token_bytes - 1] == 0xC5 &&
                              out.as<std::uint16_t>()[static_cast<std::size_t>(t) * token_bytes / 2] == 0xC5C5,
                          t >= tokens)
                    << "token " << t << " of " << tokens;
            if (tokens == 8) expect_right(data);
        }
    }
}

/// A limit that the workspace does not fit into leaves the other configurations.
TEST_P(SparseAttentionGrid, WorkspaceLimit) {
    TOKAMAK_REQUIRE_GPU();
    const AttentionCase c = grid_case(8, GetParam());
    const auto plan = mla::make_plan(AttentionData(c, 1).problem(), Device::cuda(), {.max_workspace_bytes = 4096});
    EXPECT_LE(plan.workspace().bytes, 4096U);
    for (const std::string& variant : plan.state().variants)
        for (const std::string& grid : grid_variants(c)) EXPECT_NE(variant, grid);
}

}  // namespace
}  // namespace tokamak::test
