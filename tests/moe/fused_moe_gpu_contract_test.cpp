// SPDX-License-Identifier: Apache-2.0
// The memory contract of fused_moe on a GPU: captured graphs, stale workspaces, device counts, streams.
#include <gtest/gtest.h>

#include <array>

#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "moe/moe_cases.h"

namespace tokamak::moe::test {
namespace {

using Bytes = std::vector<std::byte>;
constexpr std::int64_t kHidden = 544;
const Device kGpu = Device::cuda();

FusedMoeCase contract_case(std::int64_t tokens, const WeightSpec& spec = WeightSpec::int4(32)) {
    FusedMoeCase c;
    c.tokens = tokens;
    c.problem = {.max_tokens = tokens,
                 .hidden = kHidden,
                 .intermediate = 224,
                 .num_experts = 11,
                 .num_local_experts = 9,
                 .top_k = 4,
                 .weights = spec};
    c.placement = Placement::scattered;
    c.gate_up_bias = c.down_bias = true;
    c.bad_ids = 0.1;
    return c;
}

/// A plan, its inputs on the GPU and what a call must give.
struct Fixture {
    Fixture(std::int64_t tokens, std::uint64_t purpose, const WeightSpec& spec = WeightSpec::int4(32)) {
        Rng rng = rng_for(purpose);
        const FusedMoeCase c = contract_case(tokens, spec);
        data = random_data(rng, c).on(kGpu);
        plan.emplace(make_plan(c.problem, kGpu));
        want = bytes_of(run_guarded(*plan, data.args()));
    }
    [[nodiscard]] static std::size_t row_bytes() { return static_cast<std::size_t>(kHidden) * 2; }
    /// What a call for the first rows of these inputs gives.
    [[nodiscard]] Bytes first(std::int64_t rows) const { return bytes_of(run_guarded(*plan, data.args(rows), 0x3C)); }

    FusedMoeData data;
    std::optional<FusedMoePlan> plan;
    Bytes want;
};

TEST(FusedMoeGpuContract, ResultDoesNotDependOnWhatTheWorkspaceHolds) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::int64_t tokens : {2, 8, 19}) {
        const Fixture f(tokens, 1);
        Rng rng = rng_for(2);
        const GuardedBuffer workspace(f.plan->workspace().bytes, kGpu);
        const GuardedBuffer out(f.want.size(), kGpu);
        FusedMoeArgs args = f.data.args();
        args.out = out.tensor(DType::bf16, {tokens, kHidden});
        for (int content = 0; content < 5; ++content) {
            if (content < 3) workspace.fill(std::array<std::uint8_t, 3>{0x00, 0xFF, 0x7F}.at(content));
            if (content == 3) workspace.fill_random(rng);  // 4: what the run before left
            out.fill(content == 1 ? 0xFF : 0x37);
            run(*f.plan, args, workspace.workspace());
            EXPECT_EQ(out.contents(), f.want) << "workspace content " << content << ", tokens " << tokens;
        }
        EXPECT_TRUE(workspace.guards_intact());
    }
}

TEST(FusedMoeGpuContract, OwningCallsGiveTheSameBits) {
    TOKAMAK_REQUIRE_GPU();
    for (const WeightSpec& spec : {WeightSpec::int4(32), WeightSpec::mxfp4()}) {
        const Fixture f(11, 3, spec);
        EXPECT_EQ(bytes_of(fused_moe(*f.plan, f.data.args())), f.want);
        EXPECT_EQ(bytes_of(fused_moe(f.data.c.problem, f.data.args(), kGpu)), f.want);
    }
}

TEST(FusedMoeGpuContract, LargeWorkspaceServesSmallerBatchesOfOtherPlans) {
    TOKAMAK_REQUIRE_GPU();
    const Fixture large(19, 4, WeightSpec::mxfp4());
    const Fixture small(3, 5);
    const GuardedBuffer workspace(max_of(*large.plan, *small.plan).bytes, kGpu);
    for (const Fixture* f : {&large, &small, &large, &small})
        for (const std::int64_t tokens : {f->data.c.tokens, std::int64_t{1}, std::int64_t{3}}) {
            const GuardedBuffer out(static_cast<std::size_t>(tokens) * Fixture::row_bytes(), kGpu);
            FusedMoeArgs args = f->data.args(tokens);
            args.out = out.tensor(DType::bf16, {tokens, kHidden});
            run(*f->plan, args, workspace.workspace());
            EXPECT_EQ(out.contents(), f->first(tokens));
        }
    EXPECT_TRUE(workspace.guards_intact());
}

/// A variant sums in an order that neither the other tokens nor routing change.
TEST(FusedMoeGpuContract, PinnedVariantsAreBatchInvariant) {
    TOKAMAK_REQUIRE_GPU();
    const Fixture f(12, 6);
    for (const std::string& variant : f.plan->state().variants) {
        PlanOptions options;
        options.variant = variant;
        const FusedMoePlan plan = make_plan(f.data.c.problem, kGpu, options);
        const Bytes all = bytes_of(run_guarded(plan, f.data.args()));
        for (std::int64_t token = 0; token < 12; ++token) {
            FusedMoeArgs args = f.data.args();
            args.tokens = 1;
            for (Tensor* t : {&args.x, &args.ids, &args.weights}) {
                Tensor view = t->first_rows(1);
                view.data = t->at(token).data;
                *t = view;
            }
            const auto row = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(token) * Fixture::row_bytes());
            const Bytes want(all.begin() + row, all.begin() + row + static_cast<std::ptrdiff_t>(f.row_bytes()));
            EXPECT_EQ(bytes_of(run_guarded(plan, args)), want) << variant << " token " << token;
        }
    }
}

TEST(FusedMoeGpuContract, StridedAndUnalignedRowsAndGapsInOut) {
    TOKAMAK_REQUIRE_GPU();
    const Fixture f(9, 7);
    Rng rng = rng_for(8);
    const std::array<std::int64_t, 2> shape = {9, kHidden};
    for (const std::int64_t gap : {8, 3}) {  // rows aligned to 16 bytes, and not
        const std::array<std::int64_t, 2> strides = {kHidden + gap, 1};
        const auto bytes = static_cast<std::size_t>(9 * (kHidden + gap) * 2);
        const GuardedBuffer x(bytes, kGpu);
        const GuardedBuffer out(bytes, kGpu, 0x11);
        x.fill_random(rng);
        FusedMoeArgs args = f.data.args();
        const Tensor view = Tensor::strided(x.data(), DType::bf16, shape, strides, kGpu);
        for (std::int64_t row = 0; row < 9; ++row)
            copy_bytes(view.at(row).data, kGpu, args.x.at(row).data, kGpu, args.x.at(row).bytes());
        args.x = view;
        args.out = Tensor::strided(out.data(), DType::bf16, shape, strides, kGpu);
        const OwnedWorkspace workspace(f.plan->workspace(), kGpu);
        run(*f.plan, args, workspace);
        synchronize(kGpu);
        const Bytes got = out.contents();
        const std::size_t row_step = static_cast<std::size_t>(kHidden + gap) * 2;
        for (std::size_t row = 0; row < 9; ++row)
            for (std::size_t i = 0; i < row_step; ++i)
                ASSERT_EQ(got[row * row_step + i],
                          i < Fixture::row_bytes() ? f.want[row * Fixture::row_bytes() + i] : std::byte{0x11});
    }
}

TEST(FusedMoeGpuContract, AccumulationIsAskedForByName) {
    TOKAMAK_REQUIRE_GPU();
    FusedMoeCase c = contract_case(10);
    c.problem.out_dtype = DType::f32;
    c.shared_output = true;
    Rng rng = rng_for(9);
    const FusedMoeData data = random_data(rng, c).on(kGpu);
    const OwnedTensor before = random_tensor(rng, DType::f32, {10, kHidden});
    const OwnedTensor out = OwnedTensor::copy_of(before, kGpu);
    FusedMoeArgs args = data.args();
    args.out = out;
    args.accumulate_into_out = true;
    fused_moe(make_plan(c.problem, kGpu), args);
    const std::vector<double> plain = values_of(to_host(fused_moe(make_plan(c.problem, kGpu), data.args())));
    const std::vector<double> held = values_of(before);
    const std::vector<double> got = values_of(to_host(out));
    for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], plain[i] + held[i], 4e-7 * (1 + std::fabs(plain[i]) + std::fabs(held[i])));
}

/// One capture of `plan` serves other ids, another map and fewer tokens, whatever `out` and the workspace hold: the
/// bits of eager calls of `same`, which has the captured call's variant at every count.
void expect_graph_follows_data(const Fixture& f, const FusedMoePlan& plan, const FusedMoePlan& same) {
    const std::int64_t tokens = f.data.c.tokens;
    const cuda::OwnedStream stream;
    const GuardedBuffer workspace(plan.workspace().bytes, kGpu);
    const GuardedBuffer out((static_cast<std::size_t>(tokens) + 4) * Fixture::row_bytes(), kGpu);
    const OwnedTensor count = OwnedTensor::copy_of(tensor_of(DType::i32, {1}, {0}), kGpu);
    const OwnedTensor ids = OwnedTensor::copy_of(f.data.routing.ids, kGpu);
    const OwnedTensor map = OwnedTensor::copy_of(f.data.routing.expert_map, kGpu);
    FusedMoeArgs args = f.data.args();
    args.ids = ids;
    args.expert_map = map;
    args.num_tokens = count;
    args.out = out.tensor(DType::bf16, {tokens + 4, kHidden});
    const cuda::CapturedGraph graph(stream, [&] { run(plan, args, workspace.workspace(), stream.stream()); });
    if (plan.options().variant.empty()) {
        EXPECT_EQ(graph.nodes(), 1U);
    }
    Rng rng = rng_for(11);
    for (const std::int64_t live : {tokens, std::int64_t{1}, std::int64_t{-3}, std::int64_t{3}, tokens + 50}) {
        const Routing fresh = random_routing(
            rng, {tokens, 11, 9, 4, Placement::scattered, DType::i32, DType::f32, live == 3 ? 1.0 : 0.1});
        copy_bytes(ids.view().data, kGpu, fresh.ids.view().data, Device::cpu(), ids.view().bytes());
        copy_bytes(map.view().data, kGpu, fresh.expert_map.view().data, Device::cpu(), map.view().bytes());
        const auto number = static_cast<std::int32_t>(live);
        copy_bytes(count.view().data, kGpu, &number, Device::cpu(), 4);
        workspace.fill_random(rng);
        out.fill(0x6B);
        synchronize(kGpu);
        graph.replay();
        synchronize(kGpu, stream.stream());
        const std::int64_t rows = std::clamp<std::int64_t>(live, 0, tokens);
        FusedMoeArgs plain = f.data.args(rows);
        plain.ids = leading(ids, rows);
        plain.expert_map = map;
        Bytes want = bytes_of(run_guarded(same, plain));
        want.resize(out.bytes(), std::byte{0x6B});
        EXPECT_EQ(out.contents(), want) << "live tokens " << live << " of " << tokens;
    }
    EXPECT_TRUE(workspace.guards_intact());
    EXPECT_TRUE(out.guards_intact());
}

FusedMoePlan pinned(const Fixture& f, const std::string& variant) {
    PlanOptions options;
    options.variant = variant;
    return make_plan(f.data.c.problem, kGpu, options);
}

TEST(FusedMoeGpuContract, CapturedGraphFollowsDeviceData) {
    TOKAMAK_REQUIRE_GPU();
    for (const std::int64_t tokens : {8, 13}) {
        const Fixture f(tokens, 10);
        expect_graph_follows_data(f, *f.plan, pinned(f, f.plan->row_for(tokens).variant));
    }
}

TEST(FusedMoeGpuContract, GraphsOfEveryVariantFollowDeviceData) {
    TOKAMAK_REQUIRE_GPU();
    for (const WeightSpec& spec :
         {WeightSpec::int4(32), WeightSpec::bf16(), WeightSpec::fp8_block(), WeightSpec::nvfp4()}) {
        const Fixture f(13, 14, spec);
        for (const std::string& variant : f.plan->state().variants) {
            SCOPED_TRACE(to_string(spec) + " " + variant);
            const FusedMoePlan plan = pinned(f, variant);
            expect_graph_follows_data(f, plan, plan);
        }
    }
}

/// Rows of `dense` so far apart that offsets into them need more than 32 bits. The memory between them is not touched.
struct FarRows {
    FarRows(const Tensor& dense, std::int64_t gap_bytes) {
        const std::int64_t bytes = dense.size(1) * static_cast<std::int64_t>(size_of(dense.dtype)) + gap_bytes;
        memory = OwnedTensor::allocate(DType::u8, {dense.size(0), bytes}, kGpu);
        const std::array<std::int64_t, 2> shape = {dense.size(0), dense.size(1)};
        const std::array<std::int64_t, 2> strides = {bytes / static_cast<std::int64_t>(size_of(dense.dtype)), 1};
        view = Tensor::strided(memory.view().data, dense.dtype, shape, strides, kGpu);
        for (std::int64_t row = 0; row < dense.size(0); ++row)
            copy_bytes(view.at(row).data, kGpu, dense.at(row).data, kGpu, dense.at(row).bytes());
    }
    OwnedTensor memory;
    Tensor view;
};

TEST(FusedMoeGpuContract, RowsAndExpertsPast4GiB) {
    TOKAMAK_REQUIRE_GPU();
    constexpr std::int64_t gap = std::int64_t{1} << 29;  // of 13 rows, nine experts
    for (const WeightSpec& spec : {WeightSpec::int4(32), WeightSpec::bf16(), WeightSpec::fp8_block()}) {
        const Fixture f(13, 15, spec);
        FusedMoeArgs args = f.data.args();
        const FarRows x(args.x, gap);
        const FarRows gate_up(args.gate_up, gap);
        const FarRows down(args.down, gap);
        const OwnedTensor dense_out = OwnedTensor::allocate(DType::bf16, {13, kHidden}, kGpu);
        const FarRows out(dense_out, gap);
        args.x = x.view;
        args.gate_up = gate_up.view;
        args.down = down.view;
        args.out = out.view;
        for (const std::string& variant : f.plan->state().variants) {
            const FusedMoePlan plan = pinned(f, variant);
            const Bytes want = bytes_of(run_guarded(plan, f.data.args()));
            for (std::int64_t row = 0; row < 13; ++row)
                fill_bytes(out.view.at(row).data, kGpu, 0x6B, out.view.at(row).bytes());
            const OwnedWorkspace workspace(plan.workspace(), kGpu);
            run(plan, args, workspace);
            synchronize(kGpu);
            Bytes got;
            for (std::int64_t row = 0; row < 13; ++row) {
                const Bytes bytes = bytes_of(to_host(out.view.at(row)));
                got.insert(got.end(), bytes.begin(), bytes.end());
            }
            EXPECT_EQ(got, want) << to_string(spec) << " " << variant;
        }
    }
}

TEST(FusedMoeGpuContract, TwoStreamsWithTheirOwnWorkspaces) {
    TOKAMAK_REQUIRE_GPU();
    const Fixture f(8, 12);
    const Fixture g(5, 13, WeightSpec::mxfp4());
    const cuda::OwnedStream streams[2];
    const Fixture* const fixtures[2] = {&f, &g};
    const GuardedBuffer outs[2] = {{f.want.size(), kGpu}, {g.want.size(), kGpu}};
    const GuardedBuffer spaces[2] = {{f.plan->workspace().bytes, kGpu}, {g.plan->workspace().bytes, kGpu}};
    for (int round = 0; round < 50; ++round)
        for (int i = 0; i < 2; ++i) {
            FusedMoeArgs args = fixtures[i]->data.args();
            args.out = outs[i].tensor(DType::bf16, {args.tokens, kHidden});
            run(*fixtures[i]->plan, args, spaces[i].workspace(), streams[i].stream());
        }
    for (int i = 0; i < 2; ++i) {
        synchronize(kGpu, streams[i].stream());
        EXPECT_EQ(outs[i].contents(), fixtures[i]->want);
    }
}

TEST(FusedMoeGpuContract, EmptyBatchesDoNothing) {
    TOKAMAK_REQUIRE_GPU();
    const Fixture f(3, 14);
    const OwnedWorkspace workspace(f.plan->workspace(), kGpu);
    const GuardedBuffer out(3 * Fixture::row_bytes(), kGpu, 0x44);
    FusedMoeArgs args = f.data.args(0);
    args.x.data = args.ids.data = args.weights.data = nullptr;
    args.out = out.tensor(DType::bf16, {3, kHidden});
    run(*f.plan, args, workspace);
    synchronize(kGpu);
    EXPECT_EQ(out.contents(), Bytes(out.bytes(), std::byte{0x44}));
}

}  // namespace
}  // namespace tokamak::moe::test
