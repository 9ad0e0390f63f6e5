// SPDX-License-Identifier: Apache-2.0
// The memory contract of fused_moe: what a call may read, must write and never touches.
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "core/choose.h"
#include "core/environment.h"
#include "moe/moe_cases.h"
#include "support/scoped.h"
#include "support/temporary_folder.h"
#include "tokamak/tune.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace tokamak::moe::test {
namespace {

using Bytes = std::vector<std::byte>;

FusedMoeCase contract_case(std::int64_t tokens) {
    FusedMoeCase c;
    c.tokens = tokens;
    c.problem = {.max_tokens = tokens,
                 .hidden = 96,
                 .intermediate = 64,
                 .num_experts = 7,
                 .num_local_experts = 5,
                 .top_k = 4,
                 .weights = WeightSpec::int4(32)};
    c.placement = Placement::scattered;
    c.gate_up_bias = true;
    c.bad_ids = 0.1;
    return c;
}

/// A plan, its inputs and what a call must give.
struct Fixture {
    explicit Fixture(std::int64_t tokens, std::uint64_t purpose, PlanOptions options = {}) {
        Rng rng = rng_for(purpose);
        const FusedMoeCase c = contract_case(tokens);
        data = random_data(rng, c);
        plan.emplace(make_plan(c.problem, Device::cpu(), options));
        want = bytes_of(run_guarded(*plan, data.args()));
    }
    [[nodiscard]] std::int64_t hidden() const { return data.c.problem.hidden; }
    [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(hidden()) * 2; }
    /// The bytes of the first rows of the expected output.
    [[nodiscard]] Bytes first(std::int64_t rows) const {
        return {want.begin(), want.begin() + static_cast<std::ptrdiff_t>(rows * hidden() * 2)};
    }

    FusedMoeData data;
    std::optional<FusedMoePlan> plan;
    Bytes want;
};

TEST(FusedMoeContract, ResultDoesNotDependOnWhatTheWorkspaceHolds) {
    const Fixture f(21, 1);
    Rng rng = rng_for(2);
    const GuardedBuffer workspace(f.plan->workspace().bytes, Device::cpu());
    const GuardedBuffer out(f.want.size(), Device::cpu());
    FusedMoeArgs args = f.data.args();
    args.out = out.tensor(DType::bf16, {21, f.hidden()});
    for (int content = 0; content < 4; ++content) {
        if (content < 2) workspace.fill(content == 0 ? 0x00 : 0xFF);
        if (content == 2) workspace.fill_random(rng);  // 3: what the run before left
        out.fill(content == 1 ? 0xFF : 0x37);
        run(*f.plan, args, workspace.workspace());
        EXPECT_EQ(out.contents(), f.want) << "workspace content " << content;
    }
    EXPECT_TRUE(workspace.guards_intact());
}

TEST(FusedMoeContract, LargeWorkspaceServesSmallerBatchesOfOtherPlans) {
    const Fixture large(40, 3);
    const Fixture small(6, 4);
    const WorkspaceSize size = max_of(*large.plan, *small.plan);
    const GuardedBuffer workspace(size.bytes, Device::cpu());
    for (const Fixture* f : {&large, &small, &large, &small})
        for (const std::int64_t tokens : {f->data.c.tokens, std::int64_t{1}, std::int64_t{5}}) {
            const GuardedBuffer out(static_cast<std::size_t>(tokens) * f->row_bytes(), Device::cpu());
            FusedMoeArgs args = f->data.args(tokens);
            args.out = out.tensor(DType::bf16, {tokens, f->hidden()});
            run(*f->plan, args, workspace.workspace());
            EXPECT_EQ(out.contents(), f->first(tokens));
        }
    EXPECT_TRUE(workspace.guards_intact());
}

TEST(FusedMoeContract, OwningCallsGiveTheSameBits) {
    const Fixture f(17, 5);
    EXPECT_EQ(bytes_of(fused_moe(*f.plan, f.data.args())), f.want);
    EXPECT_EQ(bytes_of(fused_moe(f.data.c.problem, f.data.args())), f.want);
    const OwnedWorkspace workspace(f.plan->workspace(), Device::cpu());
    FusedMoeArgs args = f.data.args();
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {17, f.hidden()});
    args.out = out;
    const OwnedTensor returned = fused_moe(*f.plan, args, workspace);
    EXPECT_FALSE(returned.owns());
    EXPECT_EQ(returned.view().data, out.view().data);
    EXPECT_EQ(bytes_of(out), f.want);
}

TEST(FusedMoeContract, OnlyTheRowsOfTheCallAreWritten) {
    const Fixture f(9, 6);
    const OwnedWorkspace workspace(f.plan->workspace(), Device::cpu());
    const GuardedBuffer out(14 * f.row_bytes(), Device::cpu(), 0x6B);
    for (const std::int64_t count : {-5, 0, 1, 4, 9, 200}) {
        out.fill(0x6B);
        const OwnedTensor num_tokens = tensor_of(DType::i32, {1}, {static_cast<double>(count)});
        FusedMoeArgs args = f.data.args();
        args.num_tokens = num_tokens;
        args.out = out.tensor(DType::bf16, {14, f.hidden()});
        run(*f.plan, args, workspace);
        const std::int64_t rows = std::clamp<std::int64_t>(count, 0, 9);
        Bytes want = f.first(rows);
        want.resize(out.bytes(), std::byte{0x6B});
        EXPECT_EQ(out.contents(), want) << "num_tokens " << count;
    }
    EXPECT_TRUE(out.guards_intact());
}

TEST(FusedMoeContract, RowsMayBeStridedAndGapsStayUntouched) {
    const Fixture f(8, 7);
    Rng rng = rng_for(8);
    const auto strided = [&](const Tensor& dense, std::int64_t gap, const GuardedBuffer& buffer) {
        const std::array<std::int64_t, 2> shape = {dense.size(0), dense.size(1)};
        const std::array<std::int64_t, 2> strides = {dense.size(1) + gap, 1};
        Tensor view = Tensor::strided(buffer.data(), dense.dtype, shape, strides);
        for (std::int64_t row = 0; row < dense.size(0); ++row)
            copy_bytes(view.at(row).data, Device::cpu(), dense.at(row).data, Device::cpu(), dense.at(row).bytes());
        return view;
    };
    const GuardedBuffer x(8 * 2 * (96 + 11), Device::cpu());
    const GuardedBuffer ids(8 * 4 * (4 + 3), Device::cpu());
    const GuardedBuffer weights(8 * 4 * (4 + 1), Device::cpu());
    const GuardedBuffer out(8 * 2 * (96 + 5), Device::cpu(), 0x11);
    x.fill_random(rng);
    FusedMoeArgs args = f.data.args();
    args.x = strided(args.x, 11, x);
    args.ids = strided(args.ids, 3, ids);
    args.weights = strided(args.weights, 1, weights);
    const std::array<std::int64_t, 2> shape = {8, 96};
    const std::array<std::int64_t, 2> strides = {101, 1};
    args.out = Tensor::strided(out.data(), DType::bf16, shape, strides);
    const OwnedWorkspace workspace(f.plan->workspace(), Device::cpu());
    run(*f.plan, args, workspace);
    const Bytes got = out.contents();
    for (std::size_t row = 0; row < 8; ++row)
        for (std::size_t i = 0; i < 202; ++i)
            ASSERT_EQ(got[row * 202 + i], i < 192 ? f.want[row * 192 + i] : std::byte{0x11});
}

TEST(FusedMoeContract, AccumulationIsAskedForByName) {
    FusedMoeCase c = contract_case(10);
    c.problem.out_dtype = DType::f32;
    c.shared_output = true;
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(9);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor before = random_tensor(rng, DType::f32, {10, 96});
    const OwnedTensor out = OwnedTensor::copy_of(before);
    FusedMoeArgs args = data.args();
    args.out = out;
    args.accumulate_into_out = true;
    fused_moe(c.problem, args);
    const std::vector<double> plain = values_of(fused_moe(c.problem, data.args()));
    const std::vector<double> held = values_of(before);
    const std::vector<double> got = values_of(out);
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], plain[i] + held[i], 4e-7 * (1 + std::fabs(plain[i]) + std::fabs(held[i])));
    args.out = Tensor();
    EXPECT_THROW(fused_moe(c.problem, args), Error);
}

/// Results of a token do not depend on the other tokens: needed for batch invariance and for chunks.
TEST(FusedMoeContract, TokensAreIndependentOfTheirBatch) {
    for (const char* const variant : {"cpu_f32", "cpu_f64"}) {
        PlanOptions options;
        options.variant = variant;
        const Fixture f(19, 10, options);
        for (std::int64_t token = 0; token < 19; ++token) {
            FusedMoeArgs args = f.data.args();
            args.tokens = 1;
            const auto only = [token](const Tensor& t) {
                Tensor view = t.first_rows(1);
                view.data = t.at(token).data;
                return view;
            };
            args.x = only(args.x);
            args.ids = only(args.ids);
            args.weights = only(args.weights);
            const auto row = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(token) * f.row_bytes());
            const Bytes want(f.want.begin() + row, f.want.begin() + row + static_cast<std::ptrdiff_t>(f.row_bytes()));
            ASSERT_EQ(bytes_of(run_guarded(*f.plan, args)), want) << variant << " token " << token;
        }
    }
}

TEST(FusedMoeContract, LimitedWorkspaceGivesTheSameBits) {
    const Fixture f(30, 11);
    const std::size_t full = f.plan->workspace().bytes;
    const std::size_t least = make_plan(contract_case(1).problem, Device::cpu()).workspace().bytes;
    ASSERT_LT(least, full);
    for (const std::size_t limit : {least, least + 1, (least + full) / 2, full - 1, full, full + 1}) {
        PlanOptions options;
        options.max_workspace_bytes = limit;
        const FusedMoePlan plan = make_plan(f.data.c.problem, Device::cpu(), options);
        EXPECT_LE(plan.workspace().bytes, limit);
        EXPECT_EQ(bytes_of(run_guarded(plan, f.data.args())), f.want) << "limit " << limit << " of " << full;
    }
    PlanOptions options;
    options.max_workspace_bytes = least - 1;
    try {
        (void)make_plan(f.data.c.problem, Device::cpu(), options);
        FAIL() << "a workspace too small for one token was taken";
    } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()), "fused_moe: `max_workspace_bytes` is " + std::to_string(least - 1) +
                                                 ", the smallest workable limit is " + std::to_string(least));
    }
}

TEST(FusedMoeContract, BatchesBeyondOneChunkMatchTheirParts) {
    FusedMoeCase c = contract_case(700);
    c.problem.hidden = 32;
    c.problem.intermediate = 32;
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(12);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor all = run_guarded(make_plan(c.problem, Device::cpu()), data.args());
    FusedMoeArgs tail = data.args();
    tail.tokens = 150;
    for (Tensor* t : {&tail.x, &tail.ids, &tail.weights}) {
        Tensor view = t->first_rows(150);
        view.data = t->at(550).data;
        *t = view;
    }
    const Bytes got = bytes_of(fused_moe(c.problem, tail));
    const Bytes whole = bytes_of(all);
    EXPECT_TRUE(std::equal(got.begin(), got.end(), whole.begin() + 550 * 32 * 2));
}

TEST(FusedMoeContract, WorkspaceIsExactAndNeverShrinks) {
    for (const bool limited : {false, true}) {
        PlanOptions options;
        FusedMoeProblem p = contract_case(1).problem;
        if (limited) options.max_workspace_bytes = 5 * make_plan(p, Device::cpu()).workspace().bytes;
        std::size_t previous = 0;
        std::vector<std::int64_t> counts;
        for (std::int64_t tokens = 0; tokens <= 300; ++tokens) counts.push_back(tokens);
        for (const std::int64_t tokens : tune::token_buckets(20000))
            counts.push_back(std::max<std::int64_t>(tokens, 300));
        for (const std::int64_t tokens : counts) {
            p.max_tokens = tokens;
            const FusedMoePlan plan = make_plan(p, Device::cpu(), options);
            ASSERT_GE(plan.workspace().bytes, previous) << tokens;
            previous = plan.workspace().bytes;
            std::size_t end = 0;
            for (const auto& entry : plan.layout().entries()) {
                ASSERT_EQ(entry.offset % 256, 0U);
                ASSERT_GE(entry.offset, end);
                end = entry.offset + entry.bytes;
            }
            ASSERT_EQ(end, plan.workspace().bytes);
        }
    }
}

/// A user's table may give the oracle to small calls only: the workspace has room for its doubles.
TEST(FusedMoeContract, TablesThatMixBothVariantsHaveRoomForTheWiderOne) {
    const Fixture f(8, 15);
    PlanOptions exact;
    exact.variant = kCpuF64;
    const Bytes want = bytes_of(run_guarded(make_plan(f.data.c.problem, Device::cpu(), exact), f.data.args(7)));
    const tokamak::test::TemporaryFolder folder;
    ConfigStore store;
    store.set("cpu", f.plan->state().problem_key, {{7, kCpuF64}, {8, kCpuF32}});
    store.save(folder.file("store.json"));
    const tokamak::test::ScopedVariable variable(environment::kConfigStore, folder.file("store.json"));
    const FusedMoePlan mixed = make_plan(f.data.c.problem, Device::cpu());
    ASSERT_EQ(mixed.row_for(7).variant, kCpuF64);
    ASSERT_EQ(mixed.row_for(8).variant, kCpuF32);
    EXPECT_EQ(bytes_of(run_guarded(mixed, f.data.args(7))), want);
    EXPECT_EQ(bytes_of(run_guarded(mixed, f.data.args())), f.want);
}

TEST(FusedMoeContract, EmptyBatchesDoNothing) {
    const Fixture f(3, 13);
    const OwnedWorkspace workspace(f.plan->workspace(), Device::cpu());
    const GuardedBuffer out(3 * f.row_bytes(), Device::cpu(), 0x44);
    FusedMoeArgs args = f.data.args(0);
    args.x.data = args.ids.data = args.weights.data = nullptr;
    args.out = out.tensor(DType::bf16, {3, f.hidden()});
    run(*f.plan, args, workspace);
    EXPECT_EQ(out.contents(), Bytes(out.bytes(), std::byte{0x44}));
    args.out = Tensor(nullptr, DType::bf16, {0, f.hidden()});
    run(*f.plan, args, workspace);

    FusedMoeProblem none = f.data.c.problem;
    none.max_tokens = 0;
    const FusedMoePlan plan = make_plan(none, Device::cpu());
    run(plan, args, Workspace{});
    EXPECT_EQ(fused_moe(plan, f.data.args(0)).view().size(0), 0);
}

TEST(FusedMoeContract, ThreadsShareAPlan) {
    const Fixture f(11, 14);
    std::array<Bytes, 4> results;
    std::vector<std::thread> threads;
    for (Bytes& result : results)
        threads.emplace_back([&f, &result] {
            const OwnedWorkspace workspace(f.plan->workspace(), Device::cpu());
            for (int round = 0; round < 3; ++round) result = bytes_of(fused_moe(*f.plan, f.data.args(), workspace));
        });
    for (std::thread& thread : threads) thread.join();
    for (const Bytes& result : results) EXPECT_EQ(result, f.want);
}

#ifdef _OPENMP
TEST(FusedMoeContract, ResultDoesNotDependOnTheThreadCount) {
    FusedMoeCase c = contract_case(33);
    c.problem.hidden = 512;  // enough work to be shared out
    Rng rng = rng_for(15);
    const FusedMoeData data = random_data(rng, c);
    const int usual = omp_get_max_threads();
    Bytes want;
    for (const int threads : {1, 3, 2}) {
        omp_set_num_threads(threads);
        const FusedMoePlan plan = make_plan(c.problem, Device::cpu());
        omp_set_num_threads(threads + 2);  // a plan keeps the number it booked scratch for
        const Bytes got = bytes_of(run_guarded(plan, data.args()));
        if (want.empty()) want = got;
        EXPECT_EQ(got, want) << threads << " threads";
    }
    omp_set_num_threads(usual);
}
#endif

}  // namespace
}  // namespace tokamak::moe::test
