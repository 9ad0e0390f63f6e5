// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "moe/guarded.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

/// What the definition makes of one row: the value each expert is chosen by (-inf: cannot be), and what it weighs.
struct Scores {
    std::vector<double> choice;
    std::vector<double> weight;
};

Scores softmax_scores(const std::vector<double>& logits) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - largest);
    Scores scores;
    for (const double logit : logits) scores.weight.push_back(std::exp(logit - largest) / sum);
    scores.choice = scores.weight;
    return scores;
}

Scores sigmoid_scores(const RouteProblem& p, const std::vector<double>& logits, const std::vector<double>& bias) {
    Scores scores;
    for (std::size_t e = 0; e < logits.size(); ++e) {
        scores.weight.push_back(1.0 / (1.0 + std::exp(-logits[e])));
        scores.choice.push_back(scores.weight[e] + (bias.empty() ? 0.0 : bias[e]));
    }
    if (p.num_groups == 1) return scores;
    const auto size = static_cast<std::size_t>(p.num_experts / p.num_groups);
    std::vector<std::pair<double, int>> groups;
    for (int g = 0; g < p.num_groups; ++g) {
        std::vector<double> members(scores.choice.begin() + static_cast<std::ptrdiff_t>(size) * g,
                                    scores.choice.begin() + static_cast<std::ptrdiff_t>(size) * (g + 1));
        std::sort(members.rbegin(), members.rend());
        groups.emplace_back(-(members[0] + members[1]), g);
    }
    std::sort(groups.begin(), groups.end());
    for (std::size_t rank = static_cast<std::size_t>(p.top_groups); rank < groups.size(); ++rank)
        for (std::size_t e = 0; e < size; ++e)
            scores.choice[static_cast<std::size_t>(groups[rank].second) * size + e] = -kInf;
    return scores;
}

/// Checks a row without asking how near-ties fall: the choice descends, nothing better was left out, weights follow.
void expect_row(const RouteProblem& p, const Scores& scores, const std::vector<double>& weights,
                const std::vector<double>& ids) {
    constexpr double near = 2e-6;
    std::vector<bool> chosen(scores.choice.size(), false);
    double sum = 0;
    double previous = kInf;
    for (const double id : ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, p.num_experts);
        const auto e = static_cast<std::size_t>(id);
        ASSERT_FALSE(chosen[e]) << "expert " << e << " twice";
        chosen[e] = true;
        ASSERT_LE(scores.choice[e], previous + near);
        previous = scores.choice[e];
        sum += scores.weight[e];
    }
    for (std::size_t e = 0; e < chosen.size(); ++e)
        if (!chosen[e]) {
            ASSERT_LE(scores.choice[e], previous + near) << "expert " << e << " is better";
        }
    for (std::size_t j = 0; j < ids.size(); ++j) {
        double want = scores.weight[static_cast<std::size_t>(ids[j])];
        if (p.renormalize) want /= sum;
        want *= p.routed_scaling_factor;
        const double tolerance = p.weights_dtype == DType::bf16 ? 0x1p-8 : 3e-6;
        ASSERT_NEAR(weights[j], want, tolerance * std::fabs(want) + 1e-7);
    }
}

struct Outputs {
    std::vector<double> weights;
    std::vector<double> ids;
};

Outputs run_route(const RouteProblem& p, const OwnedTensor& logits, const OwnedTensor& bias = {},
                  const char* variant = "cpu_f32") {
    const std::int64_t tokens = logits.view().size(0);
    PlanOptions options;
    options.variant = variant;
    const RoutePlan plan = make_plan(p, Device::cpu(), options);
    const auto slots = static_cast<std::size_t>(tokens * p.top_k);
    const GuardedBuffer weights(slots * size_of(p.weights_dtype), Device::cpu());
    const GuardedBuffer ids(slots * size_of(p.ids_dtype), Device::cpu());
    RouteArgs args;
    args.tokens = tokens;
    args.logits = logits;
    args.correction_bias = bias;
    args.weights = weights.tensor(p.weights_dtype, {tokens, p.top_k});
    args.ids = ids.tensor(p.ids_dtype, {tokens, p.top_k});
    run(plan, args, {});
    EXPECT_TRUE(weights.guards_intact() && ids.guards_intact());
    return {values_of(args.weights), values_of(args.ids)};
}

std::vector<double> row_of(const std::vector<double>& values, std::int64_t row, std::int64_t cols) {
    return {values.begin() + row * cols, values.begin() + (row + 1) * cols};
}

void expect_definition(const RouteProblem& p, std::int64_t tokens, bool biased, std::uint64_t purpose) {
    SCOPED_TRACE("experts " + std::to_string(p.num_experts) + " top_k " + std::to_string(p.top_k) + " groups " +
                 std::to_string(p.num_groups) + " seed " + std::to_string(base_seed()));
    Rng rng = rng_for(purpose);
    const OwnedTensor logits = random_tensor(rng, p.logits_dtype, {tokens, p.num_experts}, 4.0);
    const OwnedTensor bias = biased ? random_tensor(rng, DType::f32, {p.num_experts}) : OwnedTensor();
    const std::vector<double> all = values_of(logits);
    for (const char* const variant : {"cpu_f32", "cpu_f64"}) {
        const Outputs got = run_route(p, logits, bias, variant);
        for (std::int64_t token = 0; token < tokens; ++token) {
            const std::vector<double> row = row_of(all, token, p.num_experts);
            const Scores scores = p.method == RouteMethod::softmax
                                      ? softmax_scores(row)
                                      : sigmoid_scores(p, row, biased ? values_of(bias) : std::vector<double>());
            ASSERT_NO_FATAL_FAILURE(
                expect_row(p, scores, row_of(got.weights, token, p.top_k), row_of(got.ids, token, p.top_k)));
        }
    }
}

TEST(Route, SoftmaxGivesTheDefinition) {
    std::uint64_t purpose = 3000;
    for (const auto& [experts, top_k] : {std::array{8, 2}, {64, 6}, {37, 37}, {1, 1}, {257, 8}, {4096, 64}})
        for (int options = 0; options < 6; ++options)
            expect_definition(
                {.max_tokens = 6,
                 .num_experts = experts,
                 .top_k = top_k,
                 .renormalize = options % 2 == 0,
                 .routed_scaling_factor = options % 2 == 0 ? 2.5F : 1.0F,
                 .logits_dtype = std::array{DType::f32, DType::bf16, DType::f16}[static_cast<std::size_t>(options / 2)],
                 .weights_dtype = options == 3 ? DType::bf16 : DType::f32,
                 .ids_dtype = options < 3 ? DType::i32 : DType::i64},
                6, false, purpose++);
}

TEST(Route, GroupedSigmoidGivesTheDefinition) {
    std::uint64_t purpose = 3100;
    for (const auto& [experts, top_k, groups, kept] :
         {std::array{256, 8, 8, 4}, {64, 6, 1, 1}, {60, 5, 6, 2}, {16, 4, 8, 2}, {384, 8, 1, 1}, {48, 48, 4, 4}})
        for (const bool biased : {false, true})
            for (const bool renormalize : {false, true})
                expect_definition({.max_tokens = 9,
                                   .num_experts = experts,
                                   .top_k = top_k,
                                   .method = RouteMethod::sigmoid_grouped,
                                   .renormalize = renormalize,
                                   .routed_scaling_factor = 2.5F,
                                   .num_groups = groups,
                                   .top_groups = kept},
                                  9, biased, purpose++);
}

TEST(Route, TiesGoToTheLowerId) {
    const RouteProblem p{.max_tokens = 3, .num_experts = 6, .top_k = 4};
    // Equal logits; logits that differ where the probability underflows to 0; all equal.
    const OwnedTensor logits =
        tensor_of(DType::f32, {3, 6}, {1, 3, 1, 3, 2, 3, -500, -400, 9, -300, 9, -200, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5});
    const Outputs got = run_route(p, logits);
    EXPECT_EQ(got.ids, (std::vector<double>{1, 3, 5, 4, 2, 4, 0, 1, 0, 1, 2, 3}));

    const RouteProblem grouped{.max_tokens = 1,
                               .num_experts = 8,
                               .top_k = 2,
                               .method = RouteMethod::sigmoid_grouped,
                               .num_groups = 4,
                               .top_groups = 1};
    const OwnedTensor equal = tensor_of(DType::f32, {1, 8}, {1, 1, 2, 2, 2, 2, 0, 0});
    EXPECT_EQ(run_route(grouped, equal).ids, (std::vector<double>{2, 3}));
}

/// An expert outside of the kept groups is not chosen, even where every choice inside is negative.
TEST(Route, DiscardedGroupsAreExcludedNotZero) {
    const RouteProblem p{.max_tokens = 1,
                         .num_experts = 4,
                         .top_k = 2,
                         .method = RouteMethod::sigmoid_grouped,
                         .renormalize = false,
                         .num_groups = 2,
                         .top_groups = 1};
    const OwnedTensor logits = tensor_of(DType::f32, {1, 4}, {0, 0, 0, 0});
    const OwnedTensor bias = tensor_of(DType::f32, {4}, {-3, -2, -9, -1});
    const Outputs got = run_route(p, logits, bias);
    EXPECT_EQ(got.ids, (std::vector<double>{1, 0}));
    EXPECT_EQ(got.weights, (std::vector<double>{0.5, 0.5}));
}

TEST(Route, NanAndInfinities) {
    const double nan = std::nan("");
    for (const RouteMethod method : {RouteMethod::softmax, RouteMethod::sigmoid_grouped}) {
        const RouteProblem p{.max_tokens = 4, .num_experts = 5, .top_k = 3, .method = method};
        const OwnedTensor logits =
            tensor_of(DType::f32, {3, 5}, {nan, nan, nan, nan, nan, 1, 2, nan, 0, 5, -kInf, 4, -kInf, -kInf, -kInf});
        const Outputs got = run_route(p, logits);
        for (std::size_t j = 0; j < 6; ++j) {
            EXPECT_TRUE(std::isnan(got.weights[j]));
            EXPECT_EQ(got.ids[j], static_cast<double>(j % 3));
        }
        // A logit of -inf has probability 0 and is taken when nothing better is left.
        EXPECT_EQ(row_of(got.ids, 2, 3), (std::vector<double>{1, 0, 2}));
        EXPECT_NEAR(got.weights[6], 1.0, 1e-6);
        EXPECT_EQ(got.weights[7], 0.0);
    }
    const RouteProblem p{.max_tokens = 2, .num_experts = 3, .top_k = 2};
    const Outputs dead = run_route(p, tensor_of(DType::f32, {1, 3}, {-kInf, -kInf, -kInf}));
    EXPECT_TRUE(std::isnan(dead.weights[0]));
    EXPECT_EQ(dead.ids, (std::vector<double>{0, 1}));
}

TEST(Route, OnlyTheRowsOfTheCallAreWrittenAndRowsMayBeStrided) {
    const RouteProblem p{.max_tokens = 5, .num_experts = 12, .top_k = 3};
    Rng rng = rng_for(3200);
    const OwnedTensor logits = random_tensor(rng, DType::f32, {5, 12});
    RouteArgs args;
    args.tokens = 5;
    args.logits = logits;
    const RouteResult owning = route(p, args);
    const std::vector<std::byte> want_weights = bytes_of(owning.weights);
    const std::vector<std::byte> want_ids = bytes_of(owning.ids);

    const std::array<std::int64_t, 2> shape = {5, 12};
    const std::array<std::int64_t, 2> strides = {17, 1};
    const GuardedBuffer wide(5 * 17 * 4, Device::cpu());
    args.logits = Tensor::strided(wide.data(), DType::f32, shape, strides);
    for (std::int64_t row = 0; row < 5; ++row)
        copy_bytes(args.logits.at(row).data, Device::cpu(), logits.view().at(row).data, Device::cpu(), 48);
    const GuardedBuffer weights(7 * 12, Device::cpu());
    const GuardedBuffer ids(7 * 12, Device::cpu());
    args.weights = weights.tensor(DType::f32, {7, 3});
    args.ids = ids.tensor(DType::i32, {7, 3});
    const RoutePlan plan = make_plan(p, Device::cpu());
    for (const std::int64_t count : {-2, 0, 4, 5, 77}) {
        weights.fill(0x2A);
        ids.fill(0x2A);
        const OwnedTensor num_tokens = tensor_of(DType::i32, {1}, {static_cast<double>(count)});
        args.num_tokens = num_tokens;
        const RouteResult borrowed = route(plan, args);
        EXPECT_FALSE(borrowed.ids.owns());
        const auto live = static_cast<std::size_t>(std::clamp<std::int64_t>(count, 0, 5)) * 12;
        const std::vector<std::byte> got_weights = weights.contents();
        const std::vector<std::byte> got_ids = ids.contents();
        for (std::size_t i = 0; i < 84; ++i) {
            ASSERT_EQ(got_weights[i], i < live ? want_weights[i] : std::byte{0x2A});
            ASSERT_EQ(got_ids[i], i < live ? want_ids[i] : std::byte{0x2A});
        }
    }
    args = {};
    args.logits = Tensor(nullptr, DType::f32, {0, 12});
    EXPECT_EQ(route(plan, args).ids.view().size(0), 0);
}

TEST(Route, MisuseIsRefused) {
    const RouteProblem good{.max_tokens = 4, .num_experts = 8, .top_k = 2};
    const auto refused = [&](const std::function<void(RouteProblem&)>& spoil, const std::vector<std::string>& parts) {
        RouteProblem p = good;
        spoil(p);
        expect_unsupported(p, parts);
    };
    const auto grouped = [](RouteProblem& p, int groups, int kept) {
        p.method = RouteMethod::sigmoid_grouped;
        p.num_groups = groups;
        p.top_groups = kept;
    };
    refused([](auto& p) { p.max_tokens = -1; }, {"`max_tokens` is -1"});
    refused([](auto& p) { p.num_experts = 5000; }, {"`num_experts` is 5000", "1 to 4096"});
    refused([](auto& p) { p.top_k = 9; }, {"`top_k` is 9", "1 to 8"});
    refused([](auto& p) { p.top_k = 0; }, {"`top_k` is 0"});
    refused([](auto& p) { p.num_groups = 2; }, {"`num_groups` is 2", "softmax"});
    refused([&](auto& p) { grouped(p, 3, 1); }, {"`num_groups` is 3", "8"});
    refused([&](auto& p) { grouped(p, 8, 2); }, {"`num_groups` is 8", "at least two"});
    refused([&](auto& p) { grouped(p, 4, 5); }, {"`top_groups` is 5", "1 to 4"});
    refused([&](auto& p) { (grouped(p, 4, 1), p.top_k = 3); }, {"`top_k` is 3", "2 experts"});
    refused([](auto& p) { p.logits_dtype = DType::f64; }, {"`logits_dtype` is f64"});
    refused([](auto& p) { p.weights_dtype = DType::f16; }, {"`weights_dtype` is f16", "f32 or bf16"});
    refused([](auto& p) { p.routed_scaling_factor = std::numeric_limits<float>::infinity(); }, {"inf", "finite"});
    refused([](auto& p) { p.max_tokens = std::numeric_limits<std::int64_t>::max() / 8; }, {"2^63"});
    expect_unsupported(good, {"moe::route", "cuda:4096"}, ErrorCode::unsupported, Device::cuda(4096));

    const RoutePlan plan = make_plan(good, Device::cpu());
    const OwnedTensor logits = tensor_of(DType::f32, {4, 8}, std::vector<double>(32, 1.0));
    const GuardedBuffer out(4 * 2 * 4 * 2, Device::cpu(), 0x66);
    const auto call_refused = [&](const std::function<void(RouteArgs&)>& spoil, const std::vector<std::string>& parts) {
        RouteArgs args;
        args.tokens = 4;
        args.logits = logits;
        args.weights = Tensor(out.data(), DType::f32, {4, 2});
        args.ids = Tensor(out.data() + 32, DType::i32, {4, 2});
        spoil(args);
        expect_refused([&] { run(plan, args, {}); }, parts);
        for (const std::byte byte : out.contents()) ASSERT_EQ(byte, std::byte{0x66});
    };
    call_refused([](auto& a) { a.tokens = 5; }, {"`tokens` is 5", "4"});
    call_refused([](auto& a) { a.logits = a.logits.first_rows(3); }, {"`logits` is f32[3, 8]", "[4, 8]"});
    call_refused([](auto& a) { a.correction_bias = a.logits.at(0); }, {"`correction_bias`", "absent"});
    call_refused([](auto& a) { a.ids.data = a.weights.data; }, {"`weights`", "overlaps `ids`"});
    call_refused([](auto& a) { a.ids = Tensor(); }, {"`ids` is absent"});
    call_refused([](auto& a) { a.weights.data = a.logits.data; }, {"`weights`", "overlaps `logits`"});
}

}  // namespace
}  // namespace tokamak::moe::test
