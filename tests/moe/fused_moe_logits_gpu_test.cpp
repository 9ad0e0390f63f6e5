// SPDX-License-Identifier: Apache-2.0
// fused_moe from router logits, inside the launch or by one before it, against the definition in double with the routes
// of moe::route.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "moe/gpu_cases.h"
#include "moe/logit_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

const Device kGpu = Device::cuda();

void expect_routed(const FusedMoeCase& c, const LogitData& host, std::initializer_list<std::int64_t> counts,
                   int max_sms = 0) {
    const LogitData device = host.on(kGpu);
    const std::vector<Expected> want = reference(host.data);
    PlanOptions options;
    options.max_sms = max_sms;
    const std::vector<std::string> variants = make_plan(c.problem, kGpu, options).state().variants;
    for (const std::string& variant : variants) {
        options.variant = variant;
        const FusedMoePlan plan = make_plan(c.problem, kGpu, options);
        for (const std::int64_t tokens : counts) {
            SCOPED_TRACE(variant + ", tokens " + std::to_string(tokens));
            const std::vector<Expected> head(want.begin(), want.begin() + tokens * c.problem.hidden);
            expect_near(run_guarded(plan, device.args(tokens), 0x7F), head, tolerance_of(c.problem));
        }
    }
}

TEST(FusedMoeGpuLogits, EveryRuleAndType) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 900;
    const std::vector<RoutingWeight> places = {RoutingWeight::output, RoutingWeight::input, RoutingWeight::none};
    for (const RuleCase& rule : rule_cases())
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
            const Format& format = formats()[purpose % formats().size()];
            FusedMoeCase c = logit_case(rule, format.weights, 11);
            c.problem.hidden = c.problem.intermediate = allowed_size(format.weights, 32);
            c.problem.num_local_experts = std::min(c.problem.num_experts, 100);
            if (c.problem.num_experts > 100) c.placement = Placement::scattered;
            c.problem.quantize_activations = format.quantized;
            c.problem.routing_weight = places[purpose % 3];
            c.problem.route->logits_dtype = dtype;
            SCOPED_TRACE(to_string(c));
            Rng rng = rng_for(purpose++);
            expect_routed(c, logit_data(rng, c, rule.bias), {1, 8, 11});
        }
}

/// A launch before has a warp for each token, in CTAs of one warp where it may have so many of them, else in larger
/// ones.
TEST(FusedMoeGpuLogits, OnAFewMultiprocessors) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::size_t rule : {std::size_t{2}, std::size_t{8}}) {
        const FusedMoeCase c = logit_case(rule_cases()[rule], WeightSpec::bf16(), 33);
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(960);
        expect_routed(c, logit_data(rng, c, rule_cases()[rule].bias), {9, 33}, 12);
    }
}

/// Equal scores go to the lower expert, also where the logits of a row are all zeros, of both signs.
TEST(FusedMoeGpuLogits, Ties) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 950;
    for (const RuleCase& rule : rule_cases()) {
        FusedMoeCase c = logit_case(rule, WeightSpec::bf16(), 6);
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(purpose++);
        LogitData d = logit_data(rng, c, false);
        auto* const logits = d.logits.as<float>();
        for (std::int64_t i = 0; i < d.logits.view().elements(); ++i)
            logits[i] = i < c.problem.num_experts ? (i % 3 == 0 ? -0.0F : 0.0F) : std::round(logits[i]);
        RouteArgs args;
        args.tokens = 6;
        args.logits = d.logits;
        const RouteRule& r = *c.problem.route;
        RouteResult routes = route({.max_tokens = 6,
                                    .num_experts = c.problem.num_experts,
                                    .top_k = c.problem.top_k,
                                    .method = r.method,
                                    .renormalize = r.renormalize,
                                    .routed_scaling_factor = r.routed_scaling_factor,
                                    .num_groups = r.num_groups,
                                    .top_groups = r.top_groups},
                                   args);
        d.data.routing.ids = std::move(routes.ids);
        d.data.routing.weights = std::move(routes.weights);
        expect_routed(c, d, {6});
    }
}

/// Rows that vectors of 16 bytes do not fit, by variants that route in their launch.
TEST(FusedMoeGpuLogits, RowsAtAnyAddress) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::int64_t tokens = 4;
    for (const std::size_t rule : {std::size_t{5}, std::size_t{8}})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            FusedMoeCase c = logit_case(rule_cases()[rule], WeightSpec::bf16(), tokens);
            c.problem.route->logits_dtype = dtype;
            SCOPED_TRACE(to_string(c));
            Rng rng = rng_for(990);
            const LogitData d = logit_data(rng, c, rule_cases()[rule].bias);
            const LogitData device = d.on(kGpu);
            const std::int64_t experts = c.problem.num_experts;
            const std::size_t size = size_of(dtype);
            const OwnedTensor wide = OwnedTensor::allocate(dtype, {tokens, experts + 1});
            for (std::int64_t t = 0; t < tokens; ++t)
                std::memcpy(wide.as<std::byte>() + static_cast<std::size_t>(t * (experts + 1) + 1) * size,
                            d.logits.view().at(t).data, static_cast<std::size_t>(experts) * size);
            const OwnedTensor moved = OwnedTensor::copy_of(wide, kGpu);
            const std::int64_t shape[] = {tokens, experts};
            const std::int64_t strides[] = {experts + 1, 1};
            const std::vector<std::string> variants = make_plan(c.problem, kGpu).state().variants;
            for (const std::string& variant : variants) {
                PlanOptions options;
                options.variant = variant;
                FusedMoeArgs args = device.args(tokens);
                args.logits = Tensor::strided(moved.as<std::byte>() + size, dtype, shape, strides, kGpu);
                SCOPED_TRACE(variant);
                expect_near(run_guarded(make_plan(c.problem, kGpu, options), args, 0x7F), reference(d.data),
                            tolerance_of(c.problem));
            }
        }
}

TEST(FusedMoeGpuLogits, NanScoresStayInTheirRow) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::size_t rule : {std::size_t{0}, std::size_t{8}}) {
        const FusedMoeCase c = logit_case(rule_cases()[rule], WeightSpec::bf16(), 5);
        Rng rng = rng_for(970);
        LogitData d = logit_data(rng, c, rule_cases()[rule].bias);
        const std::vector<Expected> want = reference(d.data);
        d.logits.as<float>()[2 * c.problem.num_experts + 1] = std::numeric_limits<float>::quiet_NaN();
        const LogitData device = d.on(kGpu);
        const std::vector<double> got = values_of(run_guarded(make_plan(c.problem, kGpu), device.args(5)));
        const std::vector<double> cpu = values_of(run_guarded(make_plan(c.problem, Device::cpu()), d.args(5)));
        const auto hidden = static_cast<std::size_t>(c.problem.hidden);
        for (std::size_t i = 0; i < got.size(); ++i) {
            if (i / hidden == 2)
                EXPECT_EQ(std::isnan(got[i]), std::isnan(cpu[i]));
            else
                EXPECT_LE(std::fabs(got[i] - want[i].value), allowed(tolerance_of(c.problem), want[i]));
        }
    }
}

/// One capture serves other logits and fewer tokens; above a pass of the decode kernel routing has its own launch.
TEST(FusedMoeGpuLogits, CapturedGraphFollowsTheLogits) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::int64_t tokens : {8, 20}) {
        const FusedMoeCase c = logit_case(rule_cases()[8], WeightSpec::fp8_block(), tokens);
        Rng rng = rng_for(980);
        const LogitData device = logit_data(rng, c, true).on(kGpu);
        PlanOptions captured;  // the graph keeps the variant of its own token count
        captured.variant = make_plan(c.problem, kGpu).row_for(tokens).variant;
        const FusedMoePlan plan = make_plan(c.problem, kGpu, captured);
        const tokamak::cuda::OwnedStream stream;
        const GuardedBuffer workspace(plan.workspace().bytes, kGpu);
        const GuardedBuffer out(static_cast<std::size_t>(tokens * c.problem.hidden * 2), kGpu);
        const OwnedTensor count = OwnedTensor::copy_of(tensor_of(DType::i32, {1}, {0}), kGpu);
        FusedMoeArgs args = device.args(tokens);
        args.num_tokens = count;
        args.out = out.tensor(DType::bf16, {tokens, c.problem.hidden});
        const tokamak::cuda::CapturedGraph graph(stream,
                                                 [&] { run(plan, args, workspace.workspace(), stream.stream()); });
        EXPECT_EQ(graph.nodes(), tokens > 8 ? 2U : 1U);
        for (const std::int32_t live : {static_cast<std::int32_t>(tokens), 3, 0, 5}) {
            const OwnedTensor fresh = random_tensor(rng, DType::f32, {tokens, c.problem.num_experts}, 4.0);
            copy_bytes(device.logits.view().data, kGpu, fresh.view().data, Device::cpu(), fresh.view().bytes());
            copy_bytes(count.view().data, kGpu, &live, Device::cpu(), 4);
            workspace.fill_random(rng);
            out.fill(0x6B);
            synchronize(kGpu);
            graph.replay();
            synchronize(kGpu, stream.stream());
            std::vector<std::byte> want = bytes_of(run_guarded(plan, device.args(live), 0x3C));
            want.resize(out.bytes(), std::byte{0x6B});
            EXPECT_EQ(out.contents(), want) << "live tokens " << live;
        }
        EXPECT_TRUE(workspace.guards_intact() && out.guards_intact());
    }
}

/// Kernels may start while the launch before them routes. Each call of a graph takes its own ids, not those that the
/// call before has left in the same workspace.
TEST(FusedMoeGpuLogits, EachCallWaitsForItsOwnIds) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::int64_t tokens = 40;
    constexpr std::size_t calls = 5;
    for (const WeightSpec& weights : {WeightSpec::int4(32), WeightSpec::fp8_block(), WeightSpec::bf16()}) {
        FusedMoeCase c = logit_case(rule_cases()[8], weights, tokens);
        c.problem.hidden = c.problem.intermediate = allowed_size(weights, 64);
        c.problem.quantize_activations = weights.format == WeightFormat::fp8_block;
        SCOPED_TRACE(to_string(c));
        Rng rng = rng_for(987);
        const LogitData device = logit_data(rng, c, true).on(kGpu);
        std::vector<FusedMoeArgs> args(calls, device.args(tokens));
        std::vector<OwnedTensor> owned;
        for (FusedMoeArgs& call : args) {
            owned.push_back(
                OwnedTensor::copy_of(random_tensor(rng, DType::f32, {tokens, c.problem.num_experts}, 4.0), kGpu));
            call.logits = owned.back();
            owned.push_back(OwnedTensor::allocate(DType::bf16, {tokens, c.problem.hidden}, kGpu));
            call.out = owned.back();
        }
        const std::vector<std::string> variants = make_plan(c.problem, kGpu).state().variants;
        for (const std::string& variant : variants) {
            SCOPED_TRACE(variant);
            PlanOptions pinned;
            pinned.variant = variant;
            const FusedMoePlan plan = make_plan(c.problem, kGpu, pinned);
            const tokamak::cuda::OwnedStream stream;
            const GuardedBuffer workspace(plan.workspace().bytes, kGpu);
            const tokamak::cuda::CapturedGraph graph(stream, [&] {
                for (const FusedMoeArgs& call : args) run(plan, call, workspace.workspace(), stream.stream());
            });
            for (int replay = 0; replay < 3; ++replay) graph.replay();
            synchronize(kGpu, stream.stream());
            for (const FusedMoeArgs& call : args) EXPECT_EQ(bytes_of(call.out), bytes_of(run_guarded(plan, call)));
            EXPECT_TRUE(workspace.guards_intact());
        }
    }
}

/// The decode kernel routes one pass; a larger call by one of its variants has a launch for that.
TEST(FusedMoeGpuLogits, AboveAPassTheDecodeKernelTakesIds) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::int64_t most = 9;
    const FusedMoeCase c = logit_case(rule_cases()[8], WeightSpec::bf16(), most);
    Rng rng = rng_for(985);
    const LogitData device = logit_data(rng, c, true).on(kGpu);
    PlanOptions pinned;
    pinned.variant = make_plan(c.problem, kGpu).row_for(8).variant;
    ASSERT_EQ(pinned.variant.rfind("decode_", 0), 0U) << pinned.variant;
    const FusedMoePlan plan = make_plan(c.problem, kGpu, pinned);
    const tokamak::cuda::OwnedStream stream;
    const GuardedBuffer workspace(plan.workspace().bytes, kGpu);
    const GuardedBuffer out(static_cast<std::size_t>(most * c.problem.hidden * 2), kGpu);
    for (const std::int64_t tokens : {std::int64_t{8}, most}) {
        FusedMoeArgs args = device.args(tokens);
        args.out = out.tensor(DType::bf16, {tokens, c.problem.hidden});
        const tokamak::cuda::CapturedGraph graph(stream,
                                                 [&] { run(plan, args, workspace.workspace(), stream.stream()); });
        EXPECT_EQ(graph.nodes(), tokens > 8 ? 2U : 1U);
    }
}

TEST(FusedMoeGpuLogits, MoreChoicesThanLanesAreRefused) {
    TOKAMAK_REQUIRE_GPU();
    const FusedMoeProblem p = logit_case({RouteRule{}, 64, 33}, WeightSpec::bf16(), 4).problem;
    expect_unsupported(p, {"`route`", "33", "32"}, ErrorCode::unsupported, kGpu);
}

}  // namespace
}  // namespace tokamak::moe::test
