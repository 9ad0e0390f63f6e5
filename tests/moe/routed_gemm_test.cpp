// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "moe/gemm_cases.h"
#include "moe/refusal.h"
#include "tokamak/tune.h"

namespace tokamak::moe::test {
namespace {

TEST(RoutedGemm, EveryFormatAndOptionGivesTheDefinition) {
    std::uint64_t purpose = 1000;
    for (const WeightSpec& spec :
         {WeightSpec::bf16(), WeightSpec::fp8_block(), WeightSpec::int4(32), WeightSpec::int4(64),
          WeightSpec::int4(128), WeightSpec::int4(64, DType::f16), WeightSpec::mxfp4(), WeightSpec::nvfp4()})
        for (int options = 0; options < 12; ++options) {
            RoutedGemmCase c = gemm_case(spec);
            c.problem.apply_routing_weight = options % 2 == 0;
            c.ids_dtype = options % 3 == 0 ? DType::i64 : DType::i32;
            c.weights_dtype = options % 4 < 2 ? DType::f32 : DType::bf16;
            c.placement = static_cast<Placement>(1 + options / 2 % 2);
            c.problem.act_dtype =
                std::array{DType::bf16, DType::f16, DType::f32}[static_cast<std::size_t>(options % 3)];
            c.problem.out_dtype =
                std::array{DType::f32, DType::bf16, DType::f16}[static_cast<std::size_t>(options / 4)];
            SCOPED_TRACE(to_string(spec) + " options " + std::to_string(options) + " seed " +
                         std::to_string(base_seed()));
            Rng rng = rng_for(purpose++);
            const RoutedGemmData data = random_data(rng, c);
            const std::vector<Expected> want = reference(data);
            const RoutedGemmProblem& p = c.problem;
            expect_near(run_guarded(make_plan(p, Device::cpu()), data.args()), want,
                        tolerance_for(spec, Accumulation::f32, {p.act_dtype, p.out_dtype}));
            RoutedGemmProblem exact = p;
            exact.out_dtype = DType::f64;
            expect_near(run_guarded(make_plan(exact, Device::cpu()), data.args()), want,
                        tolerance_for(spec, Accumulation::f64, {p.act_dtype, DType::f64}));
        }
}

/// With 16-bit activations, int4 weights are 16-bit operands: nothing but that rounding separates the result from f32.
TEST(RoutedGemm, Int4WeightsAreRoundedToTheActivationType) {
    RoutedGemmCase c = gemm_case(WeightSpec::int4(32));
    c.problem.out_dtype = DType::f32;
    Rng rng = rng_for(1100);
    RoutedGemmData data = random_data(rng, c);
    const OwnedTensor out = run_guarded(make_plan(c.problem, Device::cpu()), data.args());
    for (Dense& matrix : data.matrix.dense)
        for (double& value : matrix.values) value = rounded(value, DType::bf16);
    expect_near(out, reference(data), tolerance_for(WeightSpec::bf16(), Accumulation::f32, {DType::bf16, DType::f32}));
}

TEST(RoutedGemm, CallsOfEveryKindGiveTheSameBits) {
    RoutedGemmCase c = gemm_case(WeightSpec::mxfp4());
    c.tokens = c.problem.max_tokens = 25;
    Rng rng = rng_for(1200);
    const RoutedGemmData data = random_data(rng, c);
    const RoutedGemmPlan plan = make_plan(c.problem, Device::cpu());
    const std::vector<std::byte> want = bytes_of(run_guarded(plan, data.args(), 0xFF));
    EXPECT_EQ(bytes_of(run_guarded(plan, data.args(), 0x00)), want);
    EXPECT_EQ(bytes_of(routed_gemm(plan, data.args())), want);
    EXPECT_EQ(bytes_of(routed_gemm(c.problem, data.args())), want);
    RoutedGemmProblem one = c.problem;
    one.max_tokens = 1;
    PlanOptions options;
    options.max_workspace_bytes = make_plan(one, Device::cpu()).workspace().bytes;
    const RoutedGemmPlan chunked = make_plan(c.problem, Device::cpu(), options);
    EXPECT_EQ(chunked.workspace().bytes, options.max_workspace_bytes);
    EXPECT_EQ(bytes_of(run_guarded(chunked, data.args())), want);
    options.max_workspace_bytes -= 1;
    expect_refused([&] { (void)make_plan(c.problem, Device::cpu(), options); },
                   {std::to_string(options.max_workspace_bytes), std::to_string(options.max_workspace_bytes + 1)});
}

TEST(RoutedGemm, OnlyTheRowsOfTheCallAreWritten) {
    const RoutedGemmCase c = gemm_case(WeightSpec::bf16());
    Rng rng = rng_for(1300);
    const RoutedGemmData data = random_data(rng, c);
    const RoutedGemmPlan plan = make_plan(c.problem, Device::cpu());
    const std::vector<std::byte> want = bytes_of(run_guarded(plan, data.args()));
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const GuardedBuffer out(13 * 53 * 2, Device::cpu());
    for (const std::int64_t count : {-1, 0, 3, 9, 50}) {
        out.fill(0x3C);
        const OwnedTensor num_tokens = tensor_of(DType::i32, {1}, {static_cast<double>(count)});
        RoutedGemmArgs args = data.args();
        args.num_tokens = num_tokens;
        args.out = out.tensor(DType::bf16, {13, 53});
        run(plan, args, workspace);
        const auto live = static_cast<std::size_t>(std::clamp<std::int64_t>(count, 0, 9)) * 106;
        const std::vector<std::byte> got = out.contents();
        for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i < live ? want[i] : std::byte{0x3C});
    }
    RoutedGemmArgs empty = data.args(0);
    empty.x.data = empty.ids.data = empty.weights.data = nullptr;
    EXPECT_EQ(routed_gemm(plan, empty).view().size(0), 0);
}

TEST(RoutedGemm, WorkspaceNeverShrinks) {
    RoutedGemmProblem p = gemm_case(WeightSpec::bf16()).problem;
    std::size_t previous = 0;
    for (std::int64_t tokens = 0; tokens <= 1200; tokens += tokens < 300 ? 1 : 90) {
        p.max_tokens = tokens;
        const std::size_t bytes = make_plan(p, Device::cpu()).workspace().bytes;
        ASSERT_GE(bytes, previous);
        previous = bytes;
    }
}

TEST(RoutedGemm, MisuseIsRefused) {
    const RoutedGemmCase c = gemm_case(WeightSpec::int4(64));
    using Spoil = std::function<void(RoutedGemmProblem&)>;
    const std::vector<std::pair<Spoil, std::vector<std::string>>> problems = {
        {[](auto& p) { p.max_tokens = -3; }, {"`max_tokens` is -3"}},
        {[](auto& p) { p.rows = 0; }, {"`rows` is 0"}},
        {[](auto& p) { p.cols = 96; }, {"96", "64"}},
        {[](auto& p) { p.top_k = 100; }, {"`top_k` is 100", "1 to 64"}},
        {[](auto& p) { p.num_local_experts = 7; }, {"`num_local_experts` is 7", "0 to 6"}},
        {[](auto& p) { p.rows = std::numeric_limits<std::int64_t>::max(); }, {"2^63"}},
        {[](auto& p) { p.weights.group_size = 0; }, {"`weights`"}},
        {[](auto& p) { p.act_dtype = DType::f64; }, {"`act_dtype` is f64"}},
    };
    for (const auto& [spoil, parts] : problems) {
        RoutedGemmProblem p = c.problem;
        spoil(p);
        expect_unsupported(p, parts);
    }
    expect_unsupported(c.problem, {"moe::routed_gemm", "cuda:4096"}, ErrorCode::unsupported, Device::cuda(4096));

    Rng rng = rng_for(1400);
    const RoutedGemmData data = random_data(rng, c);
    const RoutedGemmPlan plan = make_plan(c.problem, Device::cpu());
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const GuardedBuffer out(9 * 53 * 2, Device::cpu(), 0x21);
    using SpoilArgs = std::function<void(RoutedGemmArgs&)>;
    const std::vector<std::pair<SpoilArgs, std::vector<std::string>>> calls = {
        {[](auto& a) { a.tokens = 12; }, {"`tokens` is 12", "11"}},
        {[](auto& a) { a.weights = Tensor(); }, {"`weights` is absent"}},
        {[](auto& a) {
             a.x = Tensor(a.x.data, DType::bf16, {9, 53});
         },
         {"`x` is bf16[9, 53]", "[9, 128]"}},
        {[](auto& a) { a.matrix = a.matrix.first_rows(3); }, {"`matrix`", "u8[3, "}},
        {[](auto& a) { a.expert_map = Tensor(a.expert_map.data, DType::i32, {5}); }, {"`expert_map` is i32[5]", "[6]"}},
        {[](auto& a) {
             a.out = Tensor(a.out.data, DType::bf16, {8, 53});
         },
         {"`out` is bf16[8, 53]", "[>= 9, 53]"}},
        {[](auto& a) { a.out.data = a.x.data; }, {"`out`", "overlaps `x`"}},
    };
    for (const auto& [spoil, parts] : calls) {
        RoutedGemmArgs args = data.args();
        args.out = out.tensor(DType::bf16, {9, 53});
        spoil(args);
        expect_refused([&] { run(plan, args, workspace); }, parts);
        for (const std::byte byte : out.contents()) ASSERT_EQ(byte, std::byte{0x21});
    }
}

}  // namespace
}  // namespace tokamak::moe::test
