// SPDX-License-Identifier: Apache-2.0
// moe::sum_reduce on the GPU: the bits of the CPU's f32 variant.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "moe/guarded.h"
#include "moe/refusal.h"
#include "tokamak/moe/sum_reduce.h"

namespace tokamak::moe::test {
namespace {

const Device kGpu = Device::cuda();
using Bytes = std::vector<std::byte>;

/// y and out with `gap` elements between rows; everything a copy on the device.
struct Call {
    Call(Rng& rng, const SumReduceProblem& p, std::int64_t tokens, DType weights_dtype, std::int64_t gap, Device device)
        : y(OwnedTensor::copy_of(random_tensor(rng, p.dtype, {tokens, p.top_k, p.hidden + gap}), device)),
          weights(OwnedTensor::copy_of(random_tensor(rng, weights_dtype, {tokens, p.top_k}), device)),
          out(static_cast<std::size_t>((tokens + 1) * (p.hidden + gap)) * size_of(p.dtype), device, 0x5A) {
        const std::array<std::int64_t, 3> shape = {tokens, p.top_k, p.hidden};
        const std::array<std::int64_t, 3> strides = {p.top_k * (p.hidden + gap), p.hidden + gap, 1};
        const std::array<std::int64_t, 2> out_shape = {tokens + 1, p.hidden};
        const std::array<std::int64_t, 2> out_strides = {p.hidden + gap, 1};
        args.tokens = tokens;
        args.y = Tensor::strided(y.view().data, p.dtype, shape, strides, device);
        args.out = Tensor::strided(out.data(), p.dtype, out_shape, out_strides, device);
    }
    OwnedTensor y;
    OwnedTensor weights;
    GuardedBuffer out;
    SumReduceArgs args;
};

Bytes run_call(const SumReduceProblem& p, Call& call, Device device) {
    run(make_plan(p, device), call.args, {});
    synchronize(device);
    EXPECT_TRUE(call.out.guards_intact());
    return call.out.contents();
}

TEST(SumReduceGpu, BitsOfTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 7000;
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
        for (const auto& [top_k, hidden, tokens, gap] : {std::array<std::int64_t, 4>{8, 7168, 5, 0},
                                                         {2, 717, 4, 0},
                                                         {4, 96, 33, 8},
                                                         {1, 1, 3, 0},
                                                         {13, 129, 3, 3},
                                                         {0, 40, 3, 0},
                                                         {16, 2880, 9, 16},
                                                         {6, 4096, 70, 0},
                                                         {9, 2056, 2, 1}})
            for (int weights = 0; weights < 3; ++weights) {
                const SumReduceProblem p{.max_tokens = tokens + 2,
                                         .top_k = static_cast<int>(top_k),
                                         .hidden = hidden,
                                         .routed_scaling_factor = weights == 1 ? 2.5F : 1.0F,
                                         .dtype = dtype};
                Bytes results[2];
                for (const Device device : {Device::cpu(), kGpu}) {
                    Rng rng = rng_for(purpose);
                    Call call(rng, p, tokens, weights == 2 ? DType::bf16 : DType::f32, gap, device);
                    if (weights > 0) call.args.weights = call.weights;
                    results[device.is_cuda() ? 1 : 0] = run_call(p, call, device);
                }
                ++purpose;
                EXPECT_EQ(results[1], results[0])
                    << to_string(dtype) << " top_k " << top_k << " hidden " << hidden << " weights " << weights;
            }
}

TEST(SumReduceGpu, MostExpertsOfAllAndUnalignedViews) {
    TOKAMAK_REQUIRE_GPU();
    Bytes results[2];
    const SumReduceProblem p{.max_tokens = 3, .top_k = 300, .hidden = 64};
    for (const Device device : {Device::cpu(), kGpu}) {
        Rng rng = rng_for(7100);
        Call call(rng, p, 3, DType::f32, 8, device);
        call.args.y.data = call.y.as<std::byte>() + 2;  // aligned to an element, not to 16 bytes
        results[device.is_cuda() ? 1 : 0] = run_call(p, call, device);
    }
    EXPECT_EQ(results[1], results[0]);
}

/// Rows past the count are neither read nor written, also where they hold NaN; one capture serves every count.
TEST(SumReduceGpu, CapturedGraphFollowsTheCount) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(7200);
    const SumReduceProblem p{.max_tokens = 12, .top_k = 5, .hidden = 256};
    const SumReducePlan plan = make_plan(p, kGpu);
    Call call(rng, p, 12, DType::f32, 0, kGpu);
    call.args.weights = call.weights;
    const Bytes want = run_call(p, call, kGpu);
    fill_bytes(call.args.y.at(7).data, kGpu, 0xFF, 5 * 5 * 256 * 2);
    const cuda::OwnedStream stream;
    const OwnedTensor count = OwnedTensor::allocate(DType::i32, {1}, kGpu);
    call.args.num_tokens = count;
    const cuda::CapturedGraph graph(stream, [&] { run(plan, call.args, {}, stream.stream()); });
    EXPECT_EQ(graph.nodes(), 1U);
    for (const std::int32_t live : {7, 0, 1, -3, 5}) {
        copy_bytes(count.view().data, kGpu, &live, Device::cpu(), 4);
        call.out.fill(0x2D);
        graph.replay();
        synchronize(kGpu, stream.stream());
        const auto bytes = static_cast<std::size_t>(std::max(live, 0)) * 512;
        const Bytes got = call.out.contents();
        for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i < bytes ? want[i] : std::byte{0x2D});
    }
}

TEST(SumReduceGpu, OffsetsPastTwoToThe31) {
    TOKAMAK_REQUIRE_GPU();
    const std::int64_t tokens = 38000;
    const SumReduceProblem p{.max_tokens = tokens, .top_k = 8, .hidden = 7168};
    const OwnedTensor y = OwnedTensor::allocate(DType::bf16, {tokens, 8, 7168}, kGpu);
    fill_bytes(y.view().data, kGpu, 0x3C, y.view().bytes());
    SumReduceArgs args;
    args.tokens = tokens;
    args.y = y;
    const OwnedTensor out = sum_reduce(p, args, kGpu);
    synchronize(kGpu);
    const double value = value_of(std::array<std::uint16_t, 1>{0x3C3C}.data(), DType::bf16, 0);
    for (const std::int64_t row : {std::int64_t{0}, tokens / 2, tokens - 1})
        for (const double got : values_of(to_host(out.view().at(row)))) ASSERT_EQ(got, 8 * value);
}

TEST(SumReduceGpu, OwningCallsStreamsEmptyBatchesAndMisuse) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(7300);
    const SumReduceProblem p{.max_tokens = 6, .top_k = 2, .hidden = 512};
    const SumReducePlan plan = make_plan(p, kGpu);
    EXPECT_EQ(plan.workspace().bytes, 0U);
    Call call(rng, p, 6, DType::f32, 0, kGpu);
    Bytes want = run_call(p, call, kGpu);
    want.resize(6 * 1024);
    SumReduceArgs args = call.args;
    args.out = Tensor();
    EXPECT_EQ(bytes_of(sum_reduce(plan, args)), want);
    const cuda::OwnedStream streams[2];
    const GuardedBuffer outs[2] = {{6 * 1024, kGpu}, {6 * 1024, kGpu}};
    for (int i = 0; i < 40; ++i) {
        args.out = outs[i % 2].tensor(DType::bf16, {6, 512});
        run(plan, args, {}, streams[i % 2].stream());
    }
    for (int i = 0; i < 2; ++i) {
        synchronize(kGpu, streams[i].stream());
        EXPECT_EQ(outs[i].contents(), want);
    }
    SumReduceArgs empty;
    empty.y = Tensor(nullptr, DType::bf16, {0, 2, 512}, kGpu);
    EXPECT_EQ(sum_reduce(plan, empty).view().size(0), 0);
    args.y.data = call.y.as<std::byte>() + 1;
    expect_refused([&] { run(plan, args, {}); }, {"sum_reduce", "`y`"});
}

}  // namespace
}  // namespace tokamak::moe::test
