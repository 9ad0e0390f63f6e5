// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/sum_reduce.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "moe/guarded.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

struct Inputs {
    OwnedTensor y;
    OwnedTensor weights;
};

Inputs random_inputs(Rng& rng, const SumReduceProblem& p, std::int64_t tokens, DType weights) {
    return {random_tensor(rng, p.dtype, {tokens, p.top_k, p.hidden}), random_tensor(rng, weights, {tokens, p.top_k})};
}

/// Value and the sum of the magnitudes of its terms.
std::pair<double, double> expected(const SumReduceProblem& p, const Inputs& in, bool weighted, std::int64_t row,
                                   std::int64_t col) {
    double sum = 0;
    double magnitude = 0;
    for (std::int64_t k = 0; k < p.top_k; ++k) {
        double term = value_of(in.y.view().data, p.dtype, (row * p.top_k + k) * p.hidden + col);
        if (weighted) term *= value_of(in.weights.view().data, in.weights.view().dtype, row * p.top_k + k);
        sum += term;
        magnitude += std::fabs(term);
    }
    return {sum * p.routed_scaling_factor, magnitude * std::fabs(p.routed_scaling_factor)};
}

void expect_definition(const SumReduceProblem& p, std::int64_t tokens, bool weighted, DType weights,
                       const char* variant, std::uint64_t purpose) {
    SCOPED_TRACE(std::string(to_string(p.dtype)) + " " + variant + " hidden " + std::to_string(p.hidden) + " seed " +
                 std::to_string(base_seed()));
    Rng rng = rng_for(purpose);
    const Inputs in = random_inputs(rng, p, tokens, weights);
    PlanOptions options;
    options.variant = variant;
    const SumReducePlan plan = make_plan(p, Device::cpu(), options);
    EXPECT_EQ(plan.workspace().bytes, 0U);
    const GuardedBuffer out(static_cast<std::size_t>(tokens * p.hidden) * size_of(p.dtype), Device::cpu(), 0xFF);
    SumReduceArgs args;
    args.tokens = tokens;
    args.y = in.y;
    if (weighted) args.weights = in.weights;
    args.out = out.tensor(p.dtype, {tokens, p.hidden});
    run(plan, args, {});
    EXPECT_TRUE(out.guards_intact());
    const double sums = std::string(variant) == "cpu_f64" ? 0x1p-50 : (p.top_k + 2) * 0x1p-24;
    const std::vector<double> got = values_of(args.out);
    for (std::int64_t i = 0; i < tokens * p.hidden; ++i) {
        const auto [want, magnitude] = expected(p, in, weighted, i / p.hidden, i % p.hidden);
        ASSERT_LE(std::fabs(got[static_cast<std::size_t>(i)] - want),
                  sums * magnitude + 1.01 * unit_roundoff(p.dtype) * std::fabs(want) + 0x1p-25);
    }
}

TEST(SumReduce, EveryTypeWeightAndVariantGivesTheDefinition) {
    std::uint64_t purpose = 2000;
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
        for (const char* const variant : {"cpu_f32", "cpu_f64"})
            for (const auto& [top_k, hidden, tokens] :
                 {std::array<std::int64_t, 3>{8, 256, 8}, {2, 717, 4}, {4, 96, 5}, {1, 1, 33}, {13, 129, 3}})
                for (int weights = 0; weights < 3; ++weights)
                    expect_definition({.max_tokens = tokens + 2,
                                       .top_k = static_cast<int>(top_k),
                                       .hidden = hidden,
                                       .routed_scaling_factor = weights == 1 ? 2.5F : 1.0F,
                                       .dtype = dtype},
                                      tokens, weights > 0, weights == 2 ? DType::bf16 : DType::f32, variant, purpose++);
}

/// The oracle's sum in double is rounded once to the output type, not to f32 in between.
TEST(SumReduce, OracleRoundsOnce) {
    PlanOptions options;
    options.variant = "cpu_f64";
    const SumReduceProblem p{.max_tokens = 4, .top_k = 3, .hidden = 1};
    // Sums just beside the middle of 1 and 1 + 2^-7, on either side and of either sign.
    const double tie = 0x1p-8;
    const double tiny = 0x1p-40;
    const OwnedTensor y =
        tensor_of(DType::bf16, {4, 3, 1}, {1, tie, tiny, -1, -tie, -tiny, 1 + 2 * tie, tie, -tiny, 1, tie, -tiny});
    SumReduceArgs args;
    args.tokens = 4;
    args.y = y;
    const OwnedTensor out = sum_reduce(make_plan(p, Device::cpu(), options), args);
    EXPECT_EQ(values_of(out), (std::vector<double>{1 + 2 * tie, -1 - 2 * tie, 1 + 2 * tie, 1}));
}

TEST(SumReduce, NoTermsGiveZeros) {
    const SumReduceProblem p{.max_tokens = 3, .top_k = 0, .hidden = 40};
    SumReduceArgs args;
    args.tokens = 3;
    args.y = Tensor(nullptr, DType::bf16, {3, 0, 40});
    const OwnedTensor out = sum_reduce(p, args);
    for (const double value : values_of(out)) EXPECT_EQ(value, 0.0);
}

TEST(SumReduce, StridesCountsAndExtraRows) {
    const SumReduceProblem p{.max_tokens = 6, .top_k = 3, .hidden = 70, .dtype = DType::f32};
    Rng rng = rng_for(2100);
    const Inputs in = random_inputs(rng, p, 6, DType::f32);
    SumReduceArgs args;
    args.tokens = 6;
    args.y = in.y;
    args.weights = in.weights;
    const std::vector<std::byte> want = bytes_of(sum_reduce(p, args));

    const std::array<std::int64_t, 3> shape = {6, 3, 70};
    const std::array<std::int64_t, 3> strides = {3 * 75 + 9, 75, 1};
    const GuardedBuffer y(6 * static_cast<std::size_t>(strides[0]) * 4, Device::cpu());
    args.y = Tensor::strided(y.data(), DType::f32, shape, strides);
    for (std::int64_t row = 0; row < 6; ++row)
        for (std::int64_t k = 0; k < 3; ++k)
            copy_bytes(args.y.at(row).at(k).data, Device::cpu(), in.y.view().at(row).at(k).data, Device::cpu(), 280);
    const GuardedBuffer out(8 * 280, Device::cpu());
    args.out = out.tensor(DType::f32, {8, 70});
    for (const std::int64_t count : {-4, 0, 2, 6, 7}) {
        out.fill(0x19);
        const OwnedTensor num_tokens = tensor_of(DType::i32, {1}, {static_cast<double>(count)});
        args.num_tokens = num_tokens;
        sum_reduce(p, args);
        const auto live = static_cast<std::size_t>(std::clamp<std::int64_t>(count, 0, 6)) * 280;
        const std::vector<std::byte> got = out.contents();
        for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i < live ? want[i] : std::byte{0x19});
    }
}

TEST(SumReduce, MisuseIsRefused) {
    const SumReduceProblem good{.max_tokens = 4, .top_k = 2, .hidden = 16};
    const auto refused = [&](const std::function<void(SumReduceProblem&)>& spoil,
                             const std::vector<std::string>& parts) {
        SumReduceProblem p = good;
        spoil(p);
        expect_unsupported(p, parts);
    };
    refused([](auto& p) { p.max_tokens = -1; }, {"`max_tokens` is -1"});
    refused([](auto& p) { p.top_k = -1; }, {"`top_k` is -1"});
    refused([](auto& p) { p.hidden = 0; }, {"`hidden` is 0"});
    refused([](auto& p) { p.dtype = DType::f64; }, {"`dtype` is f64", "bf16 or f16 or f32"});
    refused([](auto& p) { p.routed_scaling_factor = std::nanf(""); }, {"`routed_scaling_factor` is nan"});
    refused([](auto& p) { p.hidden = std::numeric_limits<std::int64_t>::max() / 4; }, {"2^63"});
    expect_unsupported(good, {"moe::sum_reduce", "cuda:4096"}, ErrorCode::unsupported, Device::cuda(4096));

    const SumReducePlan plan = make_plan(good, Device::cpu());
    Rng rng = rng_for(2200);
    const Inputs in = random_inputs(rng, good, 4, DType::f32);
    const GuardedBuffer out(4 * 32, Device::cpu(), 0x52);
    const auto call_refused = [&](const std::function<void(SumReduceArgs&)>& spoil,
                                  const std::vector<std::string>& parts) {
        SumReduceArgs args;
        args.tokens = 4;
        args.y = in.y;
        args.weights = in.weights;
        args.out = out.tensor(DType::bf16, {4, 16});
        spoil(args);
        expect_refused([&] { run(plan, args, {}); }, parts);
        for (const std::byte byte : out.contents()) ASSERT_EQ(byte, std::byte{0x52});
    };
    call_refused([](auto& a) { a.tokens = 5; }, {"`tokens` is 5", "4"});
    call_refused([](auto& a) { a.tokens = 3; }, {"`y` is bf16[4, 2, 16]", "[3, 2, 16]"});
    call_refused([](auto& a) { a.weights.dtype = DType::i32; }, {"`weights` has dtype i32", "f32 or bf16"});
    call_refused([](auto& a) { a.out = a.y; }, {"`out` is bf16[4, 2, 16]", "[>= 4, 16]"});
    call_refused([](auto& a) { a.out.data = a.y.data; }, {"`out`", "overlaps `y`"});
    call_refused([](auto& a) { a.y.data = nullptr; }, {"`y`", "null"});
}

}  // namespace
}  // namespace tokamak::moe::test
