// SPDX-License-Identifier: Apache-2.0
// What fused_moe refuses, with messages that name the argument, what was expected and what was given.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "moe/moe_cases.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

constexpr std::int64_t kTokens = 6;
constexpr std::int64_t kHugeInt = std::numeric_limits<std::int64_t>::max();

FusedMoeCase good_case() {
    FusedMoeCase c;
    c.tokens = kTokens;
    c.problem = {.max_tokens = 8,
                 .hidden = 64,
                 .intermediate = 64,
                 .num_experts = 5,
                 .num_local_experts = 3,
                 .top_k = 2,
                 .weights = WeightSpec::mxfp4()};
    c.placement = Placement::scattered;
    c.gate_up_bias = c.down_bias = c.shared_output = true;
    return c;
}

struct BadProblem {
    std::function<void(FusedMoeProblem&)> spoil;
    std::vector<std::string> parts;
};

TEST(FusedMoeMisuse, ProblemsAreRefused) {
    const std::vector<BadProblem> table = {
        {[](auto& p) { p.max_tokens = -1; }, {"`max_tokens` is -1", "at least 0"}},
        {[](auto& p) { p.hidden = 0; }, {"`hidden` is 0"}},
        {[](auto& p) { p.hidden = -64; }, {"`hidden` is -64"}},
        {[](auto& p) { p.intermediate = 0; }, {"`intermediate` is 0"}},
        {[](auto& p) { p.intermediate = kHugeInt; }, {"`intermediate` is 9223372036854775807"}},
        {[](auto& p) { p.num_experts = 0; }, {"`num_experts` is 0", "1 to 4096"}},
        {[](auto& p) { p.num_experts = 4097; }, {"`num_experts` is 4097", "1 to 4096"}},
        {[](auto& p) { p.num_local_experts = 6; }, {"`num_local_experts` is 6", "0 to 5"}},
        {[](auto& p) { p.num_local_experts = -1; }, {"`num_local_experts` is -1"}},
        {[](auto& p) { p.top_k = 0; }, {"`top_k` is 0", "1 to 64"}},
        {[](auto& p) { p.top_k = 65; }, {"`top_k` is 65", "1 to 64"}},
        {[](auto& p) { p.weights.group_size = 16; }, {"`weights`", "16"}},
        {[](auto& p) { p.weights = WeightSpec::int4(32, DType::f32); }, {"`weights`", "f32"}},
        {[](auto& p) { p.hidden = 72; }, {"72", "32"}},
        {[](auto& p) { p.intermediate = 40; }, {"40", "32"}},
        {[](auto& p) { p.max_tokens = kHugeInt / 16; }, {"576460752303423487 * 2 * 64 * 8", "2^63"}},
        {[](auto& p) { p.hidden = p.intermediate = std::int64_t{1} << 40; }, {"2^63"}},
        {[](auto& p) { p.act_dtype = DType::e4m3; }, {"`act_dtype` is e4m3", "bf16 or f16 or f32"}},
        {[](auto& p) { p.out_dtype = DType::i32; }, {"`out_dtype` is i32"}},
        {[](auto& p) {
             p.quantize_activations = true;
             p.weights = WeightSpec::nvfp4();
         },
         {"`quantize_activations`", "nvfp4", "fp8_block, mxfp4 or int4_g32"}},
        {[](auto& p) {
             p.quantize_activations = true;
             p.weights = WeightSpec::int4(64);
         },
         {"`quantize_activations`", "int4_g64"}},
        {[](auto& p) { p.activation.limit = std::nanf(""); }, {"`activation.limit` is nan"}},
        {[](auto& p) { p.activation.alpha = std::numeric_limits<float>::infinity(); }, {"`activation.alpha` is inf"}},
    };
    for (const BadProblem& bad : table) {
        FusedMoeProblem problem = good_case().problem;
        bad.spoil(problem);
        SCOPED_TRACE(bad.parts.front());
        expect_unsupported(problem, bad.parts);
    }
    EXPECT_TRUE(supports(good_case().problem, Device::cpu()));
}

TEST(FusedMoeMisuse, DevicesAndOptionsAreRefused) {
    const FusedMoeProblem problem = good_case().problem;
    expect_unsupported(problem, {"moe::fused_moe", "cuda:4096"}, ErrorCode::unsupported, Device::cuda(4096));
    expect_unsupported(problem, {"does not exist"}, ErrorCode::unsupported, Device{DeviceType::cpu, 1});
    const auto plan_with = [&](const PlanOptions& options) { (void)make_plan(problem, Device::cpu(), options); };
    PlanOptions options;
    options.variant = "cpu_f16";
    expect_refused([&] { plan_with(options); }, {"cpu_f16", "cpu_f32, cpu_f64"});
    options = {};
    options.max_sms = -1;
    expect_refused([&] { plan_with(options); }, {"`max_sms` is -1"});
    FusedMoeProblem exact = problem;
    exact.out_dtype = DType::f64;
    options = {};
    options.variant = "cpu_f32";
    expect_refused([&] { (void)make_plan(exact, Device::cpu(), options); }, {"`out_dtype` is f64", "cpu_f64"});
}

/// A complete call whose `out` is watched.
class FusedMoeArgsMisuse : public ::testing::Test {
  protected:
    FusedMoeArgsMisuse() : out_(static_cast<std::size_t>(kTokens + 4) * 128, Device::cpu(), 0x77) {
        Rng rng = rng_for(1);
        data_ = random_data(rng, good_case());
        plan_.emplace(make_plan(data_.c.problem, Device::cpu()));
        workspace_ = OwnedWorkspace(plan_->workspace(), Device::cpu());
        args_ = data_.args();
        args_.out = out_.tensor(DType::bf16, {kTokens, 64});
    }

    void expect(const std::function<void(FusedMoeArgs&, Workspace&)>& spoil, const std::vector<std::string>& parts) {
        SCOPED_TRACE(parts.front());
        FusedMoeArgs args = args_;
        Workspace workspace = workspace_;
        spoil(args, workspace);
        expect_refused([&] { run(*plan_, args, workspace); }, parts);
        for (const std::byte byte : out_.contents()) ASSERT_EQ(byte, std::byte{0x77}) << "written before refusing";
    }

    FusedMoeData data_;
    std::optional<FusedMoePlan> plan_;
    OwnedWorkspace workspace_;
    FusedMoeArgs args_;
    GuardedBuffer out_;
};

TEST_F(FusedMoeArgsMisuse, TokenCounts) {
    expect([](auto& a, auto&) { a.tokens = -1; }, {"`tokens` is -1"});
    expect([](auto& a, auto&) { a.tokens = 9; }, {"`tokens` is 9", "at most 8"});
    expect([](auto& a, auto&) { a.tokens = 7; }, {"`ids`", "[6, 2]", "[7, 2]"});
    const OwnedTensor two = tensor_of(DType::i32, {2}, {1, 1});
    const OwnedTensor wide = tensor_of(DType::i64, {1}, {1});
    expect([&](auto& a, auto&) { a.num_tokens = two; }, {"`num_tokens`", "[2]", "[1]"});
    expect([&](auto& a, auto&) { a.num_tokens = wide; }, {"`num_tokens`", "i64", "i32"});
}

TEST_F(FusedMoeArgsMisuse, ShapesTypesAndAbsentTensors) {
    const OwnedTensor other = OwnedTensor::allocate(DType::f16, {kTokens, 64});
    const OwnedTensor narrow = OwnedTensor::allocate(DType::bf16, {kTokens, 63});
    const OwnedTensor cube = OwnedTensor::allocate(DType::bf16, {kTokens, 8, 8});
    const OwnedTensor short_rows = OwnedTensor::allocate(DType::bf16, {kTokens - 1, 64});
    const OwnedTensor floats = OwnedTensor::allocate(DType::f32, {kTokens, 2});
    expect([&](auto& a, auto&) { a.x = other; }, {"`x` has dtype f16", "bf16"});
    expect([&](auto& a, auto&) { a.x = narrow; }, {"`x` is bf16[6, 63]", "[6, 64]"});
    expect([&](auto& a, auto&) { a.x = cube; }, {"`x` is bf16[6, 8, 8]", "[6, 64]"});
    expect([&](auto& a, auto&) { a.x = Tensor(); }, {"`x` is absent"});
    expect([&](auto& a, auto&) { a.x.data = nullptr; }, {"`x`", "null"});
    expect([&](auto& a, auto&) { a.ids = floats; }, {"`ids` has dtype f32", "i32 or i64"});
    expect([&](auto& a, auto&) { a.ids = Tensor(); }, {"`ids` is absent"});
    expect([&](auto& a, auto&) { a.weights = Tensor(); }, {"`weights` is absent"});
    expect([&](auto& a, auto&) { a.weights = a.ids; }, {"`weights` has dtype i32", "f32 or bf16"});
    expect([&](auto& a, auto&) { a.out = short_rows; }, {"`out` is bf16[5, 64]", "[>= 6, 64]"});
    expect([&](auto& a, auto&) { a.out = other; }, {"`out` has dtype f16", "bf16"});
    expect([&](auto& a, auto&) { a.out = Tensor(); }, {"`out` is absent"});
    expect([&](auto& a, auto&) { a.gate_up_bias = a.down_bias; }, {"`gate_up_bias`", "[3, 64]"});
    expect([&](auto& a, auto&) { a.down_bias = a.ids; }, {"`down_bias` has dtype i32", "bf16 or f32"});
    expect([&](auto& a, auto&) { a.shared_output = narrow; }, {"`shared_output` is bf16[6, 63]", "[6, 64]"});
}

TEST_F(FusedMoeArgsMisuse, WeightsAndMaps) {
    const auto bytes = static_cast<std::int64_t>(data_.down.layout.matrix_bytes);
    expect([&](auto& a, auto&) { a.down = a.down.first_rows(2); },
           {"`down` is u8[2, " + std::to_string(bytes), "[3, " + std::to_string(bytes)});
    expect([&](auto& a, auto&) { a.down = a.gate_up; }, {"`down`", std::to_string(bytes)});
    expect([&](auto& a, auto&) { a.gate_up.data = a.gate_up.template as<std::byte>() + 64; }, {"`gate_up`", "128"});
    expect([&](auto& a, auto&) { a.gate_up.dtype = DType::e4m3; }, {"`gate_up` has dtype e4m3", "u8"});
    expect([&](auto& a, auto&) { a.expert_map = a.expert_map.first_rows(4); }, {"`expert_map` is i32[4]", "[5]"});
    expect([&](auto& a, auto&) { a.first_expert = 1; }, {"`first_expert` is 1", "`expert_map`"});
    expect(
        [&](auto& a, auto&) {
            a.expert_map = Tensor();
            a.first_expert = 3;
        },
        {"`first_expert` is 3", "0 to 2"});
    expect(
        [&](auto& a, auto&) {
            a.expert_map = Tensor();
            a.first_expert = -1;
        },
        {"`first_expert` is -1"});
}

TEST_F(FusedMoeArgsMisuse, StridesAlignmentAndDevices) {
    const std::array<std::int64_t, 2> shape = {kTokens, 64};
    const std::array<std::int64_t, 2> transposed = {1, kTokens};
    const std::array<std::int64_t, 2> repeated = {0, 1};
    expect([&](auto& a, auto&) { a.x = Tensor::strided(a.x.data, DType::bf16, shape, transposed); },
           {"`x` is bf16[6, 64] strides [1, 6]", "contiguous"});
    expect([&](auto& a, auto&) { a.out = Tensor::strided(a.out.data, DType::bf16, shape, repeated); },
           {"`out`", "overlap"});
    expect([&](auto& a, auto&) { a.x.data = a.x.template as<std::byte>() + 1; }, {"`x`", "alignment to 2"});
    expect([&](auto& a, auto&) { a.x.device = Device::cuda(0); }, {"`x` is on cuda:0", "cpu"});
    expect([&](auto& a, auto&) { a.out.device = Device::cuda(1); }, {"`out` is on cuda:1", "cpu"});
}

TEST_F(FusedMoeArgsMisuse, Workspaces) {
    const std::string bytes = std::to_string(plan_->workspace().bytes);
    const std::string less = std::to_string(plan_->workspace().bytes - 1);
    expect([](auto&, auto& w) { w = {}; }, {"`workspace` has 0 bytes", bytes});
    expect([](auto&, auto& w) { --w.bytes; }, {"`workspace` has " + less, bytes});
    expect([](auto&, auto& w) { w.data = nullptr; }, {"`workspace`", "null"});
    expect([](auto&, auto& w) { w.data = static_cast<std::byte*>(w.data) + 16; }, {"`workspace`", "256"});
    expect([](auto&, auto& w) { w.device = Device::cuda(0); }, {"`workspace` is on cuda:0", "cpu"});
}

TEST_F(FusedMoeArgsMisuse, Overlaps) {
    expect([](auto& a, auto&) { a.out.data = a.x.data; }, {"`out` bf16[6, 64] overlaps `x`"});
    expect([](auto& a, auto&) { a.shared_output = a.out; }, {"`out`", "overlaps `shared_output`"});
    expect([](auto& a, auto& w) { a.out.data = w.data; }, {"`out`", "overlaps `workspace`"});
    expect([](auto& a, auto& w) { a.x.data = w.data; }, {"`workspace`", "overlaps `x`"});
    expect([](auto& a, auto&) { a.out.data = a.gate_up.data; }, {"`out`", "overlaps `gate_up`"});
}

TEST_F(FusedMoeArgsMisuse, OwningCallRefusesTheSame) {
    FusedMoeArgs args = args_;
    args.tokens = -2;
    args.out = Tensor();
    expect_refused([&] { (void)fused_moe(*plan_, args); }, {"`tokens` is -2"});
    args = args_;
    expect_refused(
        [&] {
            (void)fused_moe(*plan_, args, {workspace_.view().data, 256, Device::cpu()});
        },
        {"`workspace` has 256 bytes"});
}

}  // namespace
}  // namespace tokamak::moe::test
