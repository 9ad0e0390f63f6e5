// SPDX-License-Identifier: Apache-2.0
// moe::route on the GPU: the ids of the CPU oracle, its weights to the last bit or nearly so.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "moe/guarded.h"
#include "moe/refusal.h"
#include "tokamak/moe/route.h"

namespace tokamak::moe::test {
namespace {

const Device kGpu = Device::cuda();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Outputs {
    std::vector<double> weights;
    std::vector<double> ids;
};

/// Runs on a device with outputs of one row more than the call has; that row must keep its content.
Outputs run_on(Device device, const RouteProblem& p, const Tensor& logits, const Tensor& bias) {
    const std::int64_t tokens = logits.size(0);
    PlanOptions options;
    if (!device.is_cuda()) options.variant = "cpu_f64";
    const RoutePlan plan = make_plan(p, device, options);
    EXPECT_EQ(plan.workspace().bytes, 0U);
    const auto slots = static_cast<std::size_t>((tokens + 1) * p.top_k);
    const GuardedBuffer weights(slots * size_of(p.weights_dtype), device, 0x5A);
    const GuardedBuffer ids(slots * size_of(p.ids_dtype), device, 0x5A);
    const OwnedTensor logits_there = OwnedTensor::copy_of(logits, device);
    const OwnedTensor bias_there = OwnedTensor::copy_of(bias, device);
    RouteArgs args;
    args.tokens = tokens;
    args.logits = logits_there;
    args.correction_bias = bias_there;
    args.weights = weights.tensor(p.weights_dtype, {tokens + 1, p.top_k});
    args.ids = ids.tensor(p.ids_dtype, {tokens + 1, p.top_k});
    run(plan, args, {});
    synchronize(device);
    EXPECT_TRUE(weights.guards_intact() && ids.guards_intact());
    for (const Tensor& out : {args.weights, args.ids}) {
        const std::vector<std::byte> bytes = bytes_of(out);
        for (std::size_t i = out.first_rows(tokens).bytes(); i < bytes.size(); ++i)
            EXPECT_EQ(bytes[i], std::byte{0x5A}) << "a row past the call";
    }
    return {values_of(to_host(args.weights.first_rows(tokens))), values_of(to_host(args.ids.first_rows(tokens)))};
}

void expect_as_on_the_cpu(const RouteProblem& p, const Tensor& logits, const Tensor& bias = {}) {
    const Outputs want = run_on(Device::cpu(), p, logits, bias);
    const Outputs got = run_on(kGpu, p, logits, bias);
    ASSERT_EQ(got.ids, want.ids);
    // Both round a double once; their exponentials may differ in its last bit.
    for (std::size_t i = 0; i < want.weights.size(); ++i) {
        if (std::isnan(want.weights[i]))
            ASSERT_TRUE(std::isnan(got.weights[i]));
        else
            ASSERT_LE(std::fabs(got.weights[i] - want.weights[i]),
                      2 * unit_roundoff(p.weights_dtype) * std::fabs(want.weights[i]) + 0x1p-140);
    }
}

/// Logits with few distinct values, nearly equal ones, and the odd infinity and NaN.
OwnedTensor some_logits(Rng& rng, DType dtype, std::int64_t tokens, int experts) {
    OwnedTensor logits = random_tensor(rng, dtype, {tokens, experts}, 5.0);
    for (std::int64_t i = 0; i < tokens * experts; ++i) {
        const std::int64_t kind = i / experts % 5;
        if (kind == 1) put(logits.view().data, dtype, i, static_cast<double>(uniform_int(rng, -2, 2)));
        if (kind == 2) put(logits.view().data, dtype, i, 1.0 + 1e-7 * static_cast<double>(uniform_int(rng, 0, 3)));
        if (kind == 3 && rng() % 4 == 0) put(logits.view().data, dtype, i, -kInf);
        if (kind == 4 && rng() % (3 * static_cast<std::uint64_t>(experts)) == 0)
            put(logits.view().data, dtype, i, rng() % 2 == 0 ? kInf : std::nan(""));
    }
    return logits;
}

TEST(RouteGpu, RandomProblemsAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(5000);
    int round = 0;
    for (const int experts : {1, 2, 3, 8, 31, 60, 64, 96, 128, 160, 256, 257, 384, 512, 1000, 1024, 1025, 4096})
        for (int options = 0; options < 8; ++options, ++round) {
            RouteProblem p;
            p.num_experts = experts;
            p.method = options % 2 == 0 ? RouteMethod::softmax : RouteMethod::sigmoid_grouped;
            p.renormalize = options % 4 < 2;
            p.routed_scaling_factor = options < 4 ? 1.0F : 2.5F;
            p.logits_dtype = std::array{DType::f32, DType::bf16, DType::f16}.at(static_cast<std::size_t>(round % 3));
            p.weights_dtype = round % 5 == 0 ? DType::bf16 : DType::f32;
            p.ids_dtype = round % 7 < 3 ? DType::i64 : DType::i32;
            p.top_k = static_cast<int>(uniform_int(rng, 1, std::min(experts, options == 7 ? experts : 16)));
            if (p.method == RouteMethod::sigmoid_grouped) {
                for (const int groups : {2, 4, 8, 16, 64})
                    if (experts % groups == 0 && experts / groups >= 2 && rng() % 2 == 0) p.num_groups = groups;
                const int size = experts / p.num_groups;
                p.top_groups = static_cast<int>(uniform_int(rng, (p.top_k + size - 1) / size, p.num_groups));
            }
            const std::int64_t tokens = uniform_int(rng, 1, 40);
            p.max_tokens = tokens + uniform_int(rng, 0, 2);
            SCOPED_TRACE("experts " + std::to_string(experts) + " options " + std::to_string(options) + " top_k " +
                         std::to_string(p.top_k) + " groups " + std::to_string(p.num_groups) + " seed " +
                         std::to_string(base_seed()));
            const bool biased = p.method == RouteMethod::sigmoid_grouped && rng() % 2 == 0;
            const OwnedTensor bias = biased ? random_tensor(rng, DType::f32, {experts}) : OwnedTensor();
            ASSERT_NO_FATAL_FAILURE(expect_as_on_the_cpu(p, some_logits(rng, p.logits_dtype, tokens, experts), bias));
        }
}

TEST(RouteGpu, TiesGoToTheLowerId) {
    TOKAMAK_REQUIRE_GPU();
    for (const int experts : {7, 200, 1024, 3000}) {  // the last does not fit a warp
        const OwnedTensor equal =
            tensor_of(DType::f32, {2, experts}, std::vector<double>(static_cast<std::size_t>(2 * experts), 0.25));
        const RouteProblem p{.max_tokens = 2, .num_experts = experts, .top_k = 5};
        EXPECT_EQ(run_on(kGpu, p, equal, {}).ids, (std::vector<double>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
    }
}

TEST(RouteGpu, ManyTokensAndRowsFarApart) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(5100);
    const RouteProblem p{.max_tokens = 3000,
                         .num_experts = 256,
                         .top_k = 8,
                         .method = RouteMethod::sigmoid_grouped,
                         .num_groups = 8,
                         .top_groups = 4,
                         .logits_dtype = DType::bf16};
    const OwnedTensor bias = random_tensor(rng, DType::f32, {256});
    expect_as_on_the_cpu(p, random_tensor(rng, DType::bf16, {3000, 256}, 4.0), bias);

    // Offsets past 2^31 elements.
    const OwnedTensor logits = random_tensor(rng, DType::bf16, {3, 256}, 4.0);
    const std::int64_t stride = 1'200'000'000;
    const OwnedTensor far = OwnedTensor::allocate(DType::bf16, {2 * stride + 256}, kGpu);
    const std::array<std::int64_t, 2> shape = {3, 256};
    const std::array<std::int64_t, 2> strides = {stride, 1};
    RouteArgs args;
    args.tokens = 3;
    args.logits = Tensor::strided(far.view().data, DType::bf16, shape, strides, kGpu);
    for (std::int64_t row = 0; row < 3; ++row)
        copy_bytes(args.logits.at(row).data, kGpu, logits.view().at(row).data, Device::cpu(), 512);
    const OwnedTensor bias_there = OwnedTensor::copy_of(bias, kGpu);
    args.correction_bias = bias_there;
    const RouteResult got = route(p, args, kGpu);
    synchronize(kGpu);
    const Outputs want = run_on(Device::cpu(), p, logits, bias);
    EXPECT_EQ(values_of(to_host(got.ids)), want.ids);
}

/// A captured call follows the count and the logits; rows past the count keep their content.
TEST(RouteGpu, CapturedGraphFollowsDeviceData) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(5200);
    const RouteProblem p{.max_tokens = 21, .num_experts = 130, .top_k = 6};
    const RoutePlan plan = make_plan(p, kGpu);
    const cuda::OwnedStream stream;
    const OwnedTensor logits = OwnedTensor::allocate(DType::f32, {21, 130}, kGpu);
    const OwnedTensor count = OwnedTensor::allocate(DType::i32, {1}, kGpu);
    const GuardedBuffer weights(22 * 6 * 4, kGpu);
    const GuardedBuffer ids(22 * 6 * 4, kGpu);
    RouteArgs args;
    args.tokens = 21;
    args.num_tokens = count;
    args.logits = logits;
    args.weights = weights.tensor(DType::f32, {22, 6});
    args.ids = ids.tensor(DType::i32, {22, 6});
    const cuda::CapturedGraph graph(stream, [&] { run(plan, args, {}, stream.stream()); });
    EXPECT_EQ(graph.nodes(), 1U);
    for (const std::int32_t live : {21, 1, -4, 0, 7, 100}) {
        const OwnedTensor fresh = random_tensor(rng, DType::f32, {21, 130});
        copy_bytes(logits.view().data, kGpu, fresh.view().data, Device::cpu(), fresh.view().bytes());
        copy_bytes(count.view().data, kGpu, &live, Device::cpu(), 4);
        weights.fill(0x77);
        ids.fill(0x77);
        graph.replay();
        synchronize(kGpu, stream.stream());
        const auto rows = static_cast<std::size_t>(std::clamp<std::int32_t>(live, 0, 21)) * 24;
        const Outputs want = run_on(Device::cpu(), p, fresh, {});
        const std::vector<std::byte> got = ids.contents();
        for (std::size_t i = 0; i < got.size(); i += 4) {
            std::int32_t id = 0;
            std::memcpy(&id, got.data() + i, 4);
            ASSERT_EQ(id, i < rows ? static_cast<std::int32_t>(want.ids[i / 4]) : 0x77777777) << "live " << live;
        }
        const std::vector<std::byte> rest = weights.contents();
        for (std::size_t i = rows; i < rest.size(); ++i) ASSERT_EQ(rest[i], std::byte{0x77});
    }
    EXPECT_TRUE(weights.guards_intact() && ids.guards_intact());
}

TEST(RouteGpu, EmptyBatchAndMisuse) {
    TOKAMAK_REQUIRE_GPU();
    const RouteProblem p{.max_tokens = 4, .num_experts = 8, .top_k = 2};
    const RoutePlan plan = make_plan(p, kGpu);
    RouteArgs empty;
    empty.logits = Tensor(nullptr, DType::f32, {0, 8}, kGpu);
    EXPECT_EQ(route(plan, empty).ids.view().size(0), 0);
    const OwnedTensor memory = OwnedTensor::allocate(DType::f32, {64}, kGpu);
    RouteArgs args;
    args.tokens = 4;
    args.logits = Tensor(memory.as<std::byte>() + 2, DType::f32, {4, 8}, kGpu);
    expect_refused([&] { (void)route(plan, args); }, {"route", "`logits`"});
    args.logits = Tensor(memory.view().data, DType::f32, {4, 8});
    expect_refused([&] { (void)route(plan, args); }, {"`logits` is on cpu", "cuda:0"});
}

}  // namespace
}  // namespace tokamak::moe::test
