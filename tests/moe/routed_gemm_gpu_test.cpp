// SPDX-License-Identifier: Apache-2.0
// moe::routed_gemm on the GPU: every format and option against the reference in double, and the memory contract.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "formats/matrix.h"
#include "moe/gemm_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

const Device kGpu = Device::cuda();
using Bytes = std::vector<std::byte>;

void expect_definition(const RoutedGemmCase& c, std::uint64_t purpose) {
    const RoutedGemmProblem& p = c.problem;
    SCOPED_TRACE(to_string(p.weights) + " tokens " + std::to_string(c.tokens) + " rows " + std::to_string(p.rows) +
                 " cols " + std::to_string(p.cols) + " experts " + std::to_string(p.num_experts) + " top_k " +
                 std::to_string(p.top_k) + " seed " + std::to_string(base_seed()));
    Rng rng = rng_for(purpose);
    const RoutedGemmData data = random_data(rng, c);
    const OwnedTensor got = run_guarded(make_plan(p, kGpu), data.on(kGpu).args());
    expect_near(got, reference(data), tolerance_for(p.weights, Accumulation::f32, {p.act_dtype, p.out_dtype}));
}

TEST(RoutedGemmGpu, EveryFormatAndOptionGivesTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 8000;
    for (const WeightSpec& spec : tokamak::test::all_specs())
        for (int options = 0; options < 12; ++options) {
            RoutedGemmCase c = gemm_case(spec);
            c.problem.apply_routing_weight = options % 2 == 0;
            c.ids_dtype = options % 3 == 0 ? DType::i64 : DType::i32;
            c.weights_dtype = options % 4 < 2 ? DType::f32 : DType::bf16;
            c.placement = static_cast<Placement>(1 + options / 2 % 2);
            c.problem.out_dtype =
                std::array{DType::f32, DType::bf16, DType::f16}.at(static_cast<std::size_t>(options / 4));
            ASSERT_NO_FATAL_FAILURE(expect_definition(c, purpose++));
        }
}

TEST(RoutedGemmGpu, RandomShapes) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(8200);
    const auto formats = tokamak::test::all_specs();
    int round = 0;
    for (const int experts : {1, 3, 8, 96, 257, 1000, 1024, 4096})
        for (int i = experts > 300 ? 3 : 0; i < 6; ++i, ++round) {
            const WeightSpec& spec = formats.at(static_cast<std::size_t>(round) % formats.size());
            RoutedGemmCase c;
            c.tokens = std::array<std::int64_t, 6>{1, 2, 8, 17, 64, 150}.at(static_cast<std::size_t>(i));
            c.problem = {.max_tokens = c.tokens,
                         .rows = uniform_int(rng, 1, experts > 300 ? 70 : 150),
                         .cols = legal_cols(spec, uniform_int(rng, 1, experts > 300 ? 64 : 500)),
                         .num_experts = experts,
                         .top_k = static_cast<int>(uniform_int(rng, 1, 16)),
                         .weights = spec,
                         .out_dtype = DType::f32};
            ASSERT_NO_FATAL_FAILURE(expect_definition(c, 8300 + static_cast<std::uint64_t>(round)));
        }
}

/// Sizes of models: several strips for each CTA, many tiles, rows that are no multiple of 64.
TEST(RoutedGemmGpu, ShapesOfModels) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::array<std::array<std::int64_t, 3>, 4> shapes = {
        {{704, 1408, 7}, {33, 4096, 5}, {96, 2048, 20}, {2880, 704, 2}}};
    std::uint64_t purpose = 8400;
    for (const WeightSpec& spec : tokamak::test::all_specs()) {
        const auto& [rows, cols, tokens] = shapes.at(purpose % shapes.size());
        expect_definition({.problem = {.max_tokens = tokens,
                                       .rows = rows,
                                       .cols = legal_cols(spec, cols),
                                       .num_experts = 3,
                                       .top_k = 2,
                                       .weights = spec},
                           .tokens = tokens},
                          purpose++);
    }
}

/// Routes in tiles of every width, in several passes.
TEST(RoutedGemmGpu, OneExpertTakesEverythingAndDuplicatesCountTwice) {
    TOKAMAK_REQUIRE_GPU();
    for (const WeightSpec& spec : tokamak::test::all_specs())
        for (const std::int64_t tokens : {3, 11, 30, 380}) {
            RoutedGemmCase c = gemm_case(spec, tokens);
            c.placement = Placement::all;
            c.problem.num_local_experts = 0;
            c.bad_ids = 0;
            Rng rng = rng_for(8500);
            RoutedGemmData data = random_data(rng, c);
            for (std::int64_t i = 0; i < tokens * 3; ++i) put(data.routing.ids.view().data, DType::i32, i, 4);
            const OwnedTensor got = run_guarded(make_plan(c.problem, kGpu), data.on(kGpu).args());
            expect_near(got, reference(data), tolerance_for(spec, Accumulation::f32, {}));
        }
}

TEST(RoutedGemmGpu, WhatNoExpertTakesIsZero) {
    TOKAMAK_REQUIRE_GPU();
    RoutedGemmCase c = gemm_case(WeightSpec::mxfp4(), 40);
    c.bad_ids = 1;
    Rng rng = rng_for(8600);
    const RoutedGemmData data = random_data(rng, c).on(kGpu);
    for (const double value : values_of(run_guarded(make_plan(c.problem, kGpu), data.args()))) ASSERT_EQ(value, 0);
}

TEST(RoutedGemmGpu, CallsOfEveryKindGiveTheSameBits) {
    TOKAMAK_REQUIRE_GPU();
    for (const WeightSpec& spec : tokamak::test::all_specs()) {
        const RoutedGemmCase c = gemm_case(spec, 45);
        Rng rng = rng_for(8700);
        const RoutedGemmData data = random_data(rng, c).on(kGpu);
        const RoutedGemmPlan plan = make_plan(c.problem, kGpu);
        const Bytes want = bytes_of(run_guarded(plan, data.args(), 0xFF));
        for (const std::uint8_t poison : {0x00, 0x7F})
            EXPECT_EQ(bytes_of(run_guarded(plan, data.args(), poison)), want);
        EXPECT_EQ(bytes_of(routed_gemm(plan, data.args())), want);
        EXPECT_EQ(bytes_of(routed_gemm(c.problem, data.args(), kGpu)), want);
        PlanOptions options;
        options.max_workspace_bytes = 3 * 53 * 4 * 7;  // seven tokens at a time
        const RoutedGemmPlan chunked = make_plan(c.problem, kGpu, options);
        EXPECT_LE(chunked.workspace().bytes, options.max_workspace_bytes);
        EXPECT_EQ(bytes_of(run_guarded(chunked, data.args())), want);
        options.max_workspace_bytes = 3 * 53 * 4 - 1;
        expect_refused([&] { (void)make_plan(c.problem, kGpu, options); }, {"635", "636"});
        options = {};
        options.max_sms = 3;
        EXPECT_EQ(bytes_of(run_guarded(make_plan(c.problem, kGpu, options), data.args())), want);
        for (const std::int64_t rows : {1, 9, 44}) {  // a row does not depend on the others
            Bytes some = want;
            some.resize(static_cast<std::size_t>(rows) * 106);
            EXPECT_EQ(bytes_of(run_guarded(plan, data.args(rows))), some);
        }
    }
}

TEST(RoutedGemmGpu, StridedAndUnalignedRows) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::int64_t gap : {8, 3}) {  // rows aligned to 16 bytes, and not
        const RoutedGemmCase c = gemm_case(WeightSpec::int4(32), 19);
        const std::int64_t cols = c.problem.cols;
        Rng rng = rng_for(8800);
        const RoutedGemmData data = random_data(rng, c).on(kGpu);
        const RoutedGemmPlan plan = make_plan(c.problem, kGpu);
        const Bytes want = bytes_of(run_guarded(plan, data.args()));
        const GuardedBuffer x(static_cast<std::size_t>(19 * (cols + gap)) * 2, kGpu);  // NaN between the rows
        RoutedGemmArgs args = data.args();
        const std::array<std::int64_t, 2> shape = {19, cols};
        const std::array<std::int64_t, 2> strides = {cols + gap, 1};
        const Tensor view = Tensor::strided(x.data(), DType::bf16, shape, strides, kGpu);
        for (std::int64_t row = 0; row < 19; ++row)
            copy_bytes(view.at(row).data, kGpu, args.x.at(row).data, kGpu, args.x.at(row).bytes());
        args.x = view;
        EXPECT_EQ(bytes_of(run_guarded(plan, args)), want);
    }
}

/// One capture serves other ids, another map and fewer tokens, whatever `out` and the workspace hold.
TEST(RoutedGemmGpu, CapturedGraphFollowsDeviceData) {
    TOKAMAK_REQUIRE_GPU();
    const RoutedGemmCase c = gemm_case(WeightSpec::fp8_block(), 13);
    Rng rng = rng_for(8900);
    const RoutedGemmData data = random_data(rng, c).on(kGpu);
    const RoutedGemmPlan plan = make_plan(c.problem, kGpu);
    const cuda::OwnedStream stream;
    const GuardedBuffer workspace(plan.workspace().bytes, kGpu);
    const GuardedBuffer out(15 * 106, kGpu);
    const OwnedTensor count = OwnedTensor::copy_of(tensor_of(DType::i32, {1}, {0}), kGpu);
    const OwnedTensor ids = OwnedTensor::copy_of(data.routing.ids, kGpu);
    const OwnedTensor map = OwnedTensor::copy_of(data.routing.expert_map, kGpu);
    RoutedGemmArgs args = data.args();
    args.ids = ids;
    args.expert_map = map;
    args.num_tokens = count;
    args.out = out.tensor(DType::bf16, {15, 53});
    const cuda::CapturedGraph graph(stream, [&] { run(plan, args, workspace.workspace(), stream.stream()); });
    EXPECT_EQ(graph.nodes(), 1U);
    for (const std::int32_t live : {13, 1, -3, 3, 60}) {
        const Routing fresh =
            random_routing(rng, {13, 6, 4, 3, Placement::scattered, DType::i32, DType::f32, live == 3 ? 1.0 : 0.1});
        copy_bytes(ids.view().data, kGpu, fresh.ids.view().data, Device::cpu(), ids.view().bytes());
        copy_bytes(map.view().data, kGpu, fresh.expert_map.view().data, Device::cpu(), map.view().bytes());
        copy_bytes(count.view().data, kGpu, &live, Device::cpu(), 4);
        workspace.fill_random(rng);
        out.fill(0x6B);
        synchronize(kGpu);
        graph.replay();
        synchronize(kGpu, stream.stream());
        const std::int64_t rows = std::clamp<std::int64_t>(live, 0, 13);
        RoutedGemmArgs plain = data.args(rows);
        plain.ids = leading(ids, rows);
        plain.expert_map = map;
        Bytes want = bytes_of(run_guarded(plan, plain));
        want.resize(out.bytes(), std::byte{0x6B});
        EXPECT_EQ(out.contents(), want) << "live tokens " << live;
    }
    EXPECT_TRUE(workspace.guards_intact() && out.guards_intact());
}

TEST(RoutedGemmGpu, TwoStreamsWithTheirOwnWorkspaces) {
    TOKAMAK_REQUIRE_GPU();
    const RoutedGemmCase c = gemm_case(WeightSpec::bf16(), 24);
    Rng rng = rng_for(9000);
    const RoutedGemmData data = random_data(rng, c).on(kGpu);
    const RoutedGemmPlan plan = make_plan(c.problem, kGpu);
    const Bytes want = bytes_of(run_guarded(plan, data.args()));
    const cuda::OwnedStream streams[2];
    const GuardedBuffer outs[2] = {{want.size(), kGpu}, {want.size(), kGpu}};
    const GuardedBuffer spaces[2] = {{plan.workspace().bytes, kGpu}, {plan.workspace().bytes, kGpu}};
    for (int round = 0; round < 40; ++round) {
        const int i = round % 2;
        RoutedGemmArgs args = data.args();
        args.out = outs[i].tensor(DType::bf16, {24, 53});
        run(plan, args, spaces[i].workspace(), streams[i].stream());
    }
    for (int i = 0; i < 2; ++i) {
        synchronize(kGpu, streams[i].stream());
        EXPECT_EQ(outs[i].contents(), want);
    }
}

TEST(RoutedGemmGpu, EmptyBatchAndMisuse) {
    TOKAMAK_REQUIRE_GPU();
    const RoutedGemmCase c = gemm_case(WeightSpec::mxfp4());
    Rng rng = rng_for(9100);
    const RoutedGemmData data = random_data(rng, c).on(kGpu);
    const RoutedGemmPlan plan = make_plan(c.problem, kGpu);
    RoutedGemmArgs empty = data.args(0);
    empty.x.data = empty.ids.data = empty.weights.data = nullptr;
    EXPECT_EQ(routed_gemm(plan, empty).view().size(0), 0);
    const auto refused = [&](const std::function<void(RoutedGemmArgs&)>& spoil, const std::vector<std::string>& parts) {
        RoutedGemmArgs args = data.args();
        spoil(args);
        expect_refused([&] { (void)routed_gemm(plan, args); }, parts);
    };
    refused([](auto& a) { a.matrix.data = a.matrix.template as<std::byte>() + 16; }, {"routed_gemm", "`matrix`"});
    refused([](auto& a) { a.x.data = a.x.template as<std::byte>() + 1; }, {"routed_gemm", "`x`"});
    refused([](auto& a) { a.x.device = Device::cpu(); }, {"`x` is on cpu", "cuda:0"});
    RoutedGemmProblem p = c.problem;
    p.act_dtype = DType::f32;
    expect_unsupported(p, {"moe::routed_gemm", "`act_dtype` is f32"}, ErrorCode::unsupported, kGpu);
}

}  // namespace
}  // namespace tokamak::moe::test
