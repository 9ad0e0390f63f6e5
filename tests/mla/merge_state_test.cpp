// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/merge_state.h"

#include <gtest/gtest.h>

#include "core/choose.h"
#include "mla/contract.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"

namespace tokamak::test {
namespace {

using naive::kInfinity;
using naive::kNan;

struct Merge {
    std::int64_t tokens, heads, dim;
    DType dtype;
    Argument out_a, lse_a, out_b, lse_b, out, lse, num_tokens;

    Merge(std::int64_t tokens, std::int64_t heads, std::int64_t dim, DType dtype, std::int64_t gap = 0,
          std::int64_t spare = 0)
        : tokens(tokens), heads(heads), dim(dim), dtype(dtype) {
        const auto partial = [&](std::int64_t rows) {
            return Argument(dtype, {rows, heads, dim}, {heads * (dim + gap) + gap, dim + gap, 1});
        };
        const auto statistic = [&](std::int64_t rows) { return Argument(DType::f32, {rows, heads}, {heads + gap, 1}); };
        out_a = partial(tokens);
        out_b = partial(tokens);
        lse_a = statistic(tokens);
        lse_b = statistic(tokens);
        out = partial(tokens + spare);
        lse = statistic(tokens + spare);
        for (Argument* argument : {&out_a, &out_b}) fill_uniform(argument->host(), random, -2, 2);
        for (Argument* argument : {&lse_a, &lse_b}) fill_uniform(argument->host(), random, -3, 9);
    }

    mla::MergeStateProblem problem() const {
        return {.max_tokens = tokens, .heads = static_cast<int>(heads), .dim = dim, .dtype = dtype};
    }

    mla::MergeStateArgs args() {
        mla::MergeStateArgs args;
        args.tokens = tokens;
        args.num_tokens = num_tokens.on(Device::cpu());
        args.out_a = out_a.on(Device::cpu());
        args.lse_a = lse_a.on(Device::cpu());
        args.out_b = out_b.on(Device::cpu());
        args.lse_b = lse_b.on(Device::cpu());
        args.out = out.on(Device::cpu());
        args.lse = lse.on(Device::cpu());
        return args;
    }

    void run(const PlanOptions& options = {}) {
        mla::run(mla::make_plan(problem(), Device::cpu(), options), args(), {});
        out.expect_untouched_past(tokens);
        lse.expect_untouched_past(tokens);
    }

    void expect_right(Tolerance out_tolerance, Tolerance lse_tolerance) const {
        std::vector<double> want_out;
        std::vector<double> want_lse;
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t h = 0; h < heads; ++h) {
                const double a = static_cast<double>(lse_a.at<float>(t, h));
                const double b = static_cast<double>(lse_b.at<float>(t, h));
                const double share = 1 / (1 + std::exp(b - a));  // e^a / (e^a + e^b)
                for (std::int64_t d = 0; d < dim; ++d)
                    want_out.push_back(share * element_at(out_a.host(), t, h, d) +
                                       (1 - share) * element_at(out_b.host(), t, h, d));
                want_lse.push_back(a + std::log1p(std::exp(b - a)));
            }
        }
        expect_close(out.host(), want_out, out_tolerance, "out");
        expect_close(lse.host(), want_lse, lse_tolerance, "lse");
    }

    std::mt19937 random{std::random_device{}()};
};

TEST(MergeState, MatchesTheDefinition) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
        for (const auto& [tokens, heads, dim] :
             {std::tuple{4, 8, 128}, {2, 16, 64}, {3, 5, 96}, {5, 3, 40}, {1, 1, 1}, {2, 128, 512}}) {
            SCOPED_TRACE(std::to_string(dim) + to_string(dtype));
            Merge merge(tokens, heads, dim, dtype);
            merge.run();
            merge.expect_right(Tolerance{1e-6, 1e-6} + rounding(dtype), {1e-6, 1e-6});
            merge.run({.variant = kCpuF64});
            merge.expect_right(Tolerance{1e-12, 1e-12} + rounding(dtype), {1e-7, 0x1p-23});
        }
    }
}

TEST(MergeState, StridedAndLongerOutputs) {
    Merge merge(3, 4, 24, DType::bf16, /*gap=*/8, /*spare=*/2);
    merge.run();
    merge.expect_right(Tolerance{1e-6, 1e-6} + rounding(DType::bf16), {1e-6, 1e-6});
}

TEST(MergeState, DeviceCountOnlyLowers) {
    for (const auto& [count, live] : {std::pair{2, 2}, {-7, 0}, {0, 0}, {99, 4}}) {
        Merge merge(4, 2, 8, DType::f32);
        merge.num_tokens = Argument(DType::i32, {1});
        merge.num_tokens.at<std::int32_t>(0) = count;
        mla::run(mla::make_plan(merge.problem(), Device::cpu()), merge.args(), {});
        merge.out.expect_untouched_past(live);
        merge.lse.expect_untouched_past(live);
        merge.tokens = live;
        merge.expect_right({1e-6, 1e-6}, {1e-6, 1e-6});
    }
}

/// One token, one head, one element.
struct Single {
    double lse_a, out_a, lse_b, out_b, want_lse, want_out;
};

TEST(MergeState, EmptySidesInfinitiesAndNan) {
    for (const Single& c :
         {Single{-kInfinity, kNan, 1.5, 3.0, 1.5, 3.0},  // a dead side holds anything
          Single{1.5, 3.0, -kInfinity, kNan, 1.5, 3.0}, Single{-kInfinity, kInfinity, -2.0, -1.0, -2.0, -1.0},
          Single{-kInfinity, kNan, -kInfinity, kNan, -kInfinity, 0.0},  // two empty sides
          Single{kInfinity, 2.0, 5.0, kNan, kInfinity, 2.0},            // infinitely heavier
          Single{5.0, kNan, kInfinity, 2.0, kInfinity, 2.0},
          Single{kInfinity, 2.0, kInfinity, 4.0, kInfinity, 3.0},  // equally heavy
          Single{kInfinity, 2.0, -kInfinity, kNan, kInfinity, 2.0}, Single{kNan, 1.0, 2.0, 1.0, kNan, kNan},
          Single{2.0, 1.0, kNan, 1.0, kNan, kNan}, Single{kNan, 1.0, kInfinity, 1.0, kNan, kNan},
          Single{0.0, kNan, 0.0, 1.0, std::log(2.0), kNan},  // a live NaN is not hidden
          Single{1e4, 3.0, -1e4, 5.0, 1e4, 3.0},             // no overflow
          Single{3e38, 3.0, -3e38, 5.0, 3e38, 3.0}}) {
        for (const char* variant : {kCpuF32, kCpuF64}) {
            Merge merge(1, 1, 1, DType::f32);
            merge.lse_a.at<float>(0) = static_cast<float>(c.lse_a);
            merge.lse_b.at<float>(0) = static_cast<float>(c.lse_b);
            merge.out_a.at<float>(0) = static_cast<float>(c.out_a);
            merge.out_b.at<float>(0) = static_cast<float>(c.out_b);
            merge.run({.variant = variant});
            SCOPED_TRACE(std::to_string(c.lse_a) + " " + std::to_string(c.lse_b) + " " + variant);
            expect_close(merge.out.host(), {c.want_out}, {1e-6, 1e-6}, "out");
            expect_close(merge.lse.host(), {c.want_lse}, {1e-6, 1e-6}, "lse");
        }
    }
}

TEST(MergeState, MayWriteOverEitherInput) {
    for (const bool first : {true, false}) {
        Merge merge(5, 3, 70, DType::bf16);
        merge.run();
        const std::vector<std::byte> apart = copy_of(merge.out.host());
        const std::vector<std::byte> apart_lse = copy_of(merge.lse.host());
        mla::MergeStateArgs args = merge.args();
        args.out = first ? args.out_a : args.out_b;
        args.lse = first ? args.lse_a : args.lse_b;
        mla::run(mla::make_plan(merge.problem(), Device::cpu()), args, {});
        EXPECT_EQ(copy_of(args.out), apart);
        EXPECT_EQ(copy_of(args.lse), apart_lse);
    }
}

TEST(MergeState, ConvenienceAllocatesWhatIsMissingAndGivesTheSameBits) {
    Merge merge(3, 2, 33, DType::f16);
    merge.run();
    mla::MergeStateArgs args = merge.args();
    args.out = {};
    args.lse = {};
    const mla::MergeStateResult owned = mla::merge_state(merge.problem(), args);
    EXPECT_TRUE(owned.out.owns());
    EXPECT_EQ(copy_of(owned.out), copy_of(merge.out.host()));
    EXPECT_EQ(copy_of(owned.lse), copy_of(merge.lse.host()));
    const mla::MergeStateResult borrowed = mla::merge_state(merge.problem(), merge.args());
    EXPECT_FALSE(borrowed.out.owns());
    EXPECT_EQ(borrowed.out.view().data, merge.out.host().data);
}

TEST(MergeState, MisuseIsRefusedAndNothingWritten) {
    Merge merge(3, 2, 8, DType::bf16);
    const auto plan = mla::make_plan(merge.problem(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        mla::MergeStateArgs args = merge.args();
        spoil(args);
        expect_refused([&] { mla::run(plan, args, {}); }, texts);
        merge.out.expect_untouched_past(0);
        merge.lse.expect_untouched_past(0);
    };
    refuse([](auto& a) { a.tokens = 4; }, {"merge_state", "4", "3"});
    refuse([](auto& a) { a.tokens = -1; }, {"-1"});
    refuse([](auto& a) { a.out = a.out.first_rows(2); }, {"`out`", "[2, 2, 8]", ">= 3"});
    refuse([](auto& a) { a.out_a.dtype = DType::f16; }, {"`out_a`", "f16", "bf16"});
    refuse([](auto& a) { a.lse_b = {}; }, {"`lse_b`", "absent"});
    refuse([](auto& a) { a.lse_a.dtype = DType::f64; }, {"`lse_a`", "f64"});
    refuse([](auto& a) { a.out_b.data = nullptr; }, {"`out_b`", "null"});
    refuse([](auto& a) { a.out.device = Device::cuda(); }, {"`out`", "cuda:0", "cpu"});
    refuse([](auto& a) { a.out.strides[0] = 0; }, {"`out`", "overlap"});
    refuse([](auto& a) { a.out_a = a.out_a.at(0); }, {"`out_a`", "[2, 8]"});
    refuse([](auto& a) { a.out.data = a.out_a.template as<std::byte>() + 16; }, {"`out`", "`out_a`"});
    refuse([](auto& a) { a.lse.data = a.out_b.data; }, {"`lse`", "`out_b`"});
}

TEST(MergeState, MalformedProblemsAreRefused) {
    const auto refuse = [](auto spoil, std::initializer_list<std::string> texts) {
        mla::MergeStateProblem problem{.max_tokens = 1, .heads = 2, .dim = 3};
        spoil(problem);
        expect_refused([&] { mla::make_plan(problem, Device::cpu()); }, texts);
        EXPECT_FALSE(mla::supports(problem, Device::cpu()));
    };
    refuse([](auto& p) { p.max_tokens = -1; }, {"max_tokens", "-1"});
    refuse([](auto& p) { p.heads = 0; }, {"heads", "0"});
    refuse([](auto& p) { p.dim = -3; }, {"dim", "-3"});
    refuse([](auto& p) { p.dtype = DType::i32; }, {"dtype", "i32"});
}

TEST(MergeState, EmptyBatch) {
    const auto plan = mla::make_plan({.max_tokens = 0, .heads = 2, .dim = 3, .dtype = DType::f32}, Device::cpu());
    EXPECT_EQ(plan.workspace().bytes, 0U);
    mla::MergeStateArgs args;
    const Tensor partial(nullptr, DType::f32, {0, 2, 3});
    const Tensor statistic(nullptr, DType::f32, {0, 2});
    args.out_a = args.out_b = args.out = partial;
    args.lse_a = args.lse_b = args.lse = statistic;
    EXPECT_NO_THROW(mla::run(plan, args, {}));
}

}  // namespace
}  // namespace tokamak::test
