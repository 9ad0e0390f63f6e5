// SPDX-License-Identifier: Apache-2.0
#include "tokamak/mla/indexer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <numeric>

#include "core/choose.h"
#include "mla/contract.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"

namespace tokamak::test {
namespace {

using naive::kInfinity;
using naive::kNan;

struct Index {
    std::int64_t tokens, heads, dim, keys;
    int top_k;
    DType dtype;
    std::mt19937 random{std::random_device{}()};
    Argument q, k, weights, lengths, row_starts, logits, indices, num_tokens;

    Index(std::int64_t tokens, std::int64_t heads, std::int64_t dim, std::int64_t keys, int top_k,
          DType dtype = DType::f32, std::int64_t gap = 0, std::int64_t spare = 0)
        : tokens(tokens), heads(heads), dim(dim), keys(keys), top_k(top_k), dtype(dtype) {
        q = Argument(dtype, {tokens, heads, dim}, {heads * (dim + gap) + gap, dim + gap, 1});
        k = Argument(dtype, {keys, dim}, {dim + gap, 1});
        weights = Argument(DType::f32, {tokens, heads}, {heads + gap, 1});
        logits = Argument(DType::f32, {tokens + spare, keys}, {keys + gap, 1});
        indices = Argument(DType::i32, {tokens + spare, top_k}, {top_k + gap, 1});
        for (Argument* argument : {&q, &k, &weights}) fill_uniform(argument->host(), random, -1, 1);
    }

    /// Small integers: every sum is exact, and equal logits abound.
    void use_integers() {
        for (Argument* argument : {&q, &k, &weights})
            for_each_index(argument->host(), [&](auto i, auto j, auto d) {
                set_element(argument->host(), offset_of(argument->host(), i, j, d),
                            static_cast<double>(random() % 5) - 2);
            });
    }

    void use_windows(std::vector<std::int32_t> starts, const std::vector<std::int32_t>& counts) {
        lengths = Argument(DType::i32, {tokens}, {2});
        if (!starts.empty()) row_starts = Argument(DType::i32, {tokens});
        for (std::int64_t t = 0; t < tokens; ++t) {
            lengths.at<std::int32_t>(t) = counts[static_cast<std::size_t>(t)];
            if (!starts.empty()) row_starts.at<std::int32_t>(t) = starts[static_cast<std::size_t>(t)];
        }
    }

    mla::IndexerProblem problem() const {
        return {.max_tokens = tokens,
                .heads = static_cast<int>(heads),
                .dim = dim,
                .keys = keys,
                .top_k = top_k,
                .dtype = dtype};
    }

    mla::IndexerArgs args() {
        mla::IndexerArgs args;
        args.tokens = tokens;
        args.num_tokens = num_tokens.on(Device::cpu());
        args.q = q.on(Device::cpu());
        args.k = k.on(Device::cpu());
        args.weights = weights.on(Device::cpu());
        args.lengths = lengths.on(Device::cpu());
        args.row_starts = row_starts.on(Device::cpu());
        args.logits = logits.on(Device::cpu());
        args.indices = indices.on(Device::cpu());
        return args;
    }

    void run(const PlanOptions& options = {}) {
        const auto plan = mla::make_plan(problem(), Device::cpu(), options);
        mla::run(plan, args(), poisoned_workspace(plan.workspace(), Device::cpu(), 0xFF));
        logits.expect_untouched_past(tokens);
        indices.expect_untouched_past(tokens);
    }

    [[nodiscard]] std::vector<double> expected_logits() const {
        std::vector<double> want;
        for (std::int64_t t = 0; t < tokens; ++t) {
            const std::int64_t start = row_starts.host().present ? row_starts.at<std::int32_t>(t) : 0;
            const std::int64_t count = lengths.host().present ? lengths.at<std::int32_t>(t) : keys;
            for (std::int64_t j = 0; j < keys; ++j) {
                double logit = 0;
                for (std::int64_t h = 0; h < heads; ++h) {
                    double dot = 0;
                    for (std::int64_t d = 0; d < dim; ++d)
                        dot += element_at(q.host(), t, h, d) * element_at(k.host(), j, d);
                    logit += element_at(weights.host(), t, h) * (dot < 0 ? 0 : dot);
                }
                want.push_back(j >= start && j < start + count ? logit : -kInfinity);
            }
        }
        return want;
    }

    /// The ids in the documented order of the given logits: a plain stable sort.
    static std::vector<std::int32_t> order_of(const double* logits, std::int64_t keys, int top_k) {
        std::vector<std::int32_t> ids(static_cast<std::size_t>(keys));
        std::iota(ids.begin(), ids.end(), 0);
        std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
            if (std::isnan(logits[a])) return false;
            return std::isnan(logits[b]) || logits[a] > logits[b];
        });
        ids.resize(static_cast<std::size_t>(top_k));
        return ids;
    }

    void expect_order_of(const std::vector<double>& of_logits) const {
        for (std::int64_t t = 0; t < tokens; ++t) {
            const std::vector<std::int32_t> want = order_of(of_logits.data() + t * keys, keys, top_k);
            for (std::int64_t j = 0; j < top_k; ++j)
                ASSERT_EQ(indices.at<std::int32_t>(t, j), want[static_cast<std::size_t>(j)]) << t << " " << j;
        }
    }

    [[nodiscard]] std::vector<double> own_logits() const {
        std::vector<double> own;
        for (std::int64_t t = 0; t < tokens; ++t)
            for (std::int64_t j = 0; j < keys; ++j) own.push_back(element_at(logits.host(), t, j));
        return own;
    }
};

TEST(Indexer, LogitsMatchTheDefinitionAndIndicesTheLogits) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        for (const auto& [tokens, heads, dim, keys, top_k] :
             {std::tuple{4, 16, 64, 96, 16}, {1, 64, 128, 700, 512}, {3, 1, 8, 5, 5}, {2, 33, 40, 130, 1}}) {
            for (const char* variant : {kCpuF32, kCpuF64}) {
                SCOPED_TRACE(std::string(to_string(dtype)) + " " + std::to_string(keys) + " " + variant);
                Index index(tokens, heads, dim, keys, top_k, dtype);
                index.run({.variant = variant});
                expect_close(index.logits.host(), index.expected_logits(), {1e-4, 1e-5}, "logits");
                index.expect_order_of(index.own_logits());
            }
        }
    }
}

TEST(Indexer, TiesGoToTheLowerId) {
    for (const int top_k : {1, 7, 64, 199, 200}) {
        Index index(3, 4, 3, 200, top_k);
        index.use_integers();
        index.run();
        const std::vector<double> want = index.expected_logits();
        expect_close(index.logits.host(), want, {0, 0}, "logits");
        index.expect_order_of(want);
    }
}

TEST(Indexer, Windows) {
    const std::vector<std::int32_t> starts = {0, 10, -5, 90, 200, 3, 50, INT_MAX, 0};
    const std::vector<std::int32_t> counts = {0, 5, 20, 50, 10, -4, INT_MAX, INT_MAX, 100};
    for (const bool with_starts : {true, false}) {
        for (const int top_k : {1, 12, 100}) {
            Index index(9, 2, 8, 100, top_k);
            index.use_integers();
            index.use_windows(with_starts ? starts : std::vector<std::int32_t>{}, counts);
            index.run();
            const std::vector<double> want = index.expected_logits();
            expect_close(index.logits.host(), want, {0, 0}, "logits");
            index.expect_order_of(want);
        }
    }
}

TEST(Indexer, NarrowWindowIsFilledWithTheLowestIdsOutside) {
    Index index(1, 1, 4, 20, 8);
    index.use_windows({5}, {3});
    index.run();
    std::vector<std::int32_t> ids;
    for (std::int64_t j = 0; j < 8; ++j) ids.push_back(index.indices.at<std::int32_t>(0, j));
    std::sort(ids.begin(), ids.begin() + 3);
    EXPECT_EQ(ids, (std::vector<std::int32_t>{5, 6, 7, 0, 1, 2, 3, 4}));
}

TEST(Indexer, NanComesLastAndZerosOfBothSignsAreEqual) {
    Index index(1, 1, 1, 8, 8);
    index.q.at<float>(0) = 1;
    index.weights.at<float>(0) = -1;  // turns a positive score into a negative logit and 0 into -0
    const double keys[] = {kNan, -1.0, 2.0, kNan, 0.0, kInfinity, 1.0, -0.0};
    for (std::int64_t j = 0; j < 8; ++j) index.k.at<float>(j) = static_cast<float>(keys[j]);
    index.run();
    const std::int32_t want[] = {1, 4, 7, 6, 2, 5, 0, 3};
    for (std::int64_t j = 0; j < 8; ++j) EXPECT_EQ(index.indices.at<std::int32_t>(0, j), want[j]) << j;
    EXPECT_TRUE(std::isnan(index.logits.at<float>(0, 0)));
    EXPECT_EQ(index.logits.at<float>(0, 5), -std::numeric_limits<float>::infinity());
}

TEST(Indexer, ManyKeys) {
    Index index(2, 2, 8, 100000, 2048, DType::bf16);
    index.use_integers();
    index.use_windows({0, 777}, {100000, 90000});
    index.run();
    const std::vector<double> want = index.expected_logits();
    expect_close(index.logits.host(), want, {0, 0}, "logits");
    index.expect_order_of(want);
}

TEST(Indexer, LogitsAreOptionalStridesAndSpareRowsAllowed) {
    Index index(5, 3, 24, 70, 9, DType::bf16, /*gap=*/8, /*spare=*/2);
    index.run();
    index.expect_order_of(index.own_logits());
    const std::vector<std::byte> with = copy_of(index.indices.host());
    mla::IndexerArgs args = index.args();
    args.logits = {};
    std::memset(args.indices.data, 0x77, 9 * sizeof(std::int32_t));
    const auto plan = mla::make_plan(index.problem(), Device::cpu());
    mla::run(plan, args, poisoned_workspace(plan.workspace(), Device::cpu(), 0));
    EXPECT_EQ(copy_of(index.indices.host()), with);
}

TEST(Indexer, DeviceCountOnlyLowers) {
    for (const auto& [count, live] : {std::pair{2, 2}, {-1, 0}, {9, 4}}) {
        Index index(4, 2, 8, 30, 5);
        index.num_tokens = Argument(DType::i32, {1});
        index.num_tokens.at<std::int32_t>(0) = count;
        const auto plan = mla::make_plan(index.problem(), Device::cpu());
        mla::run(plan, index.args(), poisoned_workspace(plan.workspace(), Device::cpu(), 0xFF));
        index.logits.expect_untouched_past(live);
        index.indices.expect_untouched_past(live);
        index.tokens = live;
        index.expect_order_of(index.own_logits());
    }
}

TEST(Indexer, MemoryContract) {
    Index index(6, 4, 16, 600, 33);
    index.run();
    const std::vector<std::byte> logits = copy_of(index.logits.host());
    const std::vector<std::byte> indices = copy_of(index.indices.host());
    const auto plan = mla::make_plan(index.problem(), Device::cpu());
    expect_exact_layout(plan);
    for (const auto& content : workspace_contents(plan.workspace().bytes)) {
        OwnedWorkspace workspace(plan.workspace(), Device::cpu());
        std::copy(content.begin(), content.end(), static_cast<std::uint8_t*>(workspace.view().data));
        index.logits = Argument(DType::f32, {6, 600});
        index.indices = Argument(DType::i32, {6, 33});
        mla::run(plan, index.args(), workspace);
        EXPECT_EQ(copy_of(index.logits.host()), logits);
        EXPECT_EQ(copy_of(index.indices.host()), indices);
    }
    mla::IndexerArgs args = index.args();
    args.logits = {};
    args.indices = {};
    const mla::IndexerResult owned = mla::indexer(index.problem(), args);
    EXPECT_EQ(copy_of(owned.logits), logits);
    EXPECT_EQ(copy_of(owned.indices), indices);
    expect_monotone([&](std::int64_t tokens) {
        mla::IndexerProblem problem = index.problem();
        problem.max_tokens = tokens;
        return mla::make_plan(problem, Device::cpu()).workspace().bytes;
    });
    const std::size_t one = mla::make_plan({.max_tokens = 1, .heads = 4, .dim = 16, .keys = 600, .top_k = 33},
                                           Device::cpu(), {.max_workspace_bytes = plan.workspace().bytes})
                                .workspace()
                                .bytes;
    const auto limited = mla::make_plan(index.problem(), Device::cpu(), {.max_workspace_bytes = one});
    EXPECT_LE(limited.workspace().bytes, one);
    mla::run(limited, index.args(), OwnedWorkspace(limited.workspace(), Device::cpu()));
    EXPECT_EQ(copy_of(index.indices.host()), indices);
}

TEST(Indexer, MisuseIsRefusedAndNothingWritten) {
    Index index(3, 2, 8, 40, 4, DType::bf16);
    index.use_windows({0, 1, 2}, {9, 9, 9});
    const auto plan = mla::make_plan(index.problem(), Device::cpu());
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    const auto refuse = [&](auto spoil, std::initializer_list<std::string> texts) {
        mla::IndexerArgs args = index.args();
        spoil(args);
        expect_refused([&] { mla::run(plan, args, workspace); }, texts);
        index.logits.expect_untouched_past(0);
        index.indices.expect_untouched_past(0);
    };
    refuse([](auto& a) { a.tokens = 4; }, {"indexer", "4", "3"});
    refuse([](auto& a) { a.lengths = {}; }, {"`row_starts`", "`lengths`"});
    refuse([](auto& a) { a.k = a.k.first_rows(39); }, {"`k`", "[39, 8]", "[40, 8]"});
    refuse([](auto& a) { a.q.dtype = DType::f16; }, {"`q`", "f16", "bf16"});
    refuse([](auto& a) { a.weights.dtype = DType::bf16; }, {"`weights`", "bf16", "f32"});
    refuse([](auto& a) { a.indices = {}; }, {"`indices`", "absent"});
    refuse([](auto& a) { a.indices = a.indices.first_rows(2); }, {"`indices`", "[2, 4]", ">= 3"});
    refuse([](auto& a) { a.indices.data = a.logits.data; }, {"`logits`", "`indices`"});
    refuse([](auto& a) { a.logits.data = a.k.data; }, {"`logits`", "`k`"});
    refuse([&](auto& a) { a.indices.data = workspace.view().data; }, {"`indices`", "overlaps `workspace`"});
    refuse([&](auto& a) { a.q.data = workspace.view().data; }, {"`workspace`", "overlaps `q`"});
    expect_refused([&] { mla::run(plan, index.args(), {}); }, {"workspace"});
}

TEST(Indexer, MalformedProblemsAreRefused) {
    const auto refuse = [](auto spoil, std::initializer_list<std::string> texts) {
        mla::IndexerProblem problem{.max_tokens = 1, .heads = 2, .dim = 8, .keys = 40, .top_k = 4};
        spoil(problem);
        expect_refused([&] { mla::make_plan(problem, Device::cpu()); }, texts);
        EXPECT_FALSE(mla::supports(problem, Device::cpu()));
    };
    refuse([](auto& p) { p.top_k = 41; }, {"top_k", "41", "40"});
    refuse([](auto& p) { p.top_k = 0; }, {"top_k", "0"});
    refuse([](auto& p) { p.keys = 0; }, {"keys", "0"});
    refuse([](auto& p) { p.keys = std::int64_t{1} << 31; }, {"keys"});
    refuse([](auto& p) { p.dtype = DType::e4m3; }, {"dtype", "e4m3"});
    refuse([](auto& p) { p.max_tokens = -1; }, {"max_tokens"});
}

}  // namespace
}  // namespace tokamak::test
