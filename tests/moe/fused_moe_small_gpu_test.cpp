// SPDX-License-Identifier: Apache-2.0
// One small call by every variant of every format, a test each: what scripts/sanitize.sh runs under compute-sanitizer.
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/gpu.h"
#include "moe/cuda/legal_variants.h"
#include "moe/cuda/pass_workspace.h"
#include "moe/gpu_cases.h"
#include "moe/logit_cases.h"

namespace tokamak::moe::test {
namespace {

struct NamedFormat {
    std::string name;
    Format format;
};

const std::vector<NamedFormat>& small_formats() {
    static const std::vector<NamedFormat> all = {
        {"bf16", {WeightSpec::bf16()}},
        {"fp8_block", {WeightSpec::fp8_block(), true}},
        {"fp8_block_a16", {WeightSpec::fp8_block()}},
        {"int4_g32", {WeightSpec::int4(32)}},
        {"int4_g64", {WeightSpec::int4(64)}},
        {"int4_g128", {WeightSpec::int4(128)}},
        {"int4_g32_f16", {WeightSpec::int4(32, DType::f16)}},
        {"int4_g64_f16", {WeightSpec::int4(64, DType::f16)}},
        {"int4_g128_f16", {WeightSpec::int4(128, DType::f16)}},
        {"int4_g32_a8", {WeightSpec::int4(32), true}},
        {"mxfp4", {WeightSpec::mxfp4()}},
        {"mxfp4_a8", {WeightSpec::mxfp4(), true}},
        {"nvfp4", {WeightSpec::nvfp4()}},
    };
    return all;
}

enum class Kind {
    ids,
    logits,  ///< routed inside the launch, or by one before it
    long_,   ///< so many columns that the wide kernel prepares and combines under its multiplications
};

struct SmallCall {
    NamedFormat format;
    Kind kind = Kind::ids;
    std::string variant;
};
std::string name_of(const SmallCall& call) {
    const char* const kinds[] = {"", "_logits", "_long"};
    return call.format.name + "_" + call.variant + kinds[static_cast<int>(call.kind)];
}
void PrintTo(const SmallCall& call, std::ostream* stream) { *stream << name_of(call); }

bool begins_with(const std::string& name, const std::string& prefix) { return name.rfind(prefix, 0) == 0; }

/// Tokens for two passes of the kernels that take eight at a time, for more than one row tile of the others.
FusedMoeCase small_call(const SmallCall& call) {
    const bool few = begins_with(call.variant, "decode") || call.kind == Kind::logits;
    const std::int64_t tokens = begins_with(call.variant, "single") ? 1 : few ? 9 : 37;
    FusedMoeCase c = gpu_case(call.format.format, tokens, 256, call.kind == Kind::long_ ? 1536 : 256);
    if (call.kind == Kind::logits) c.problem.route = RouteRule{};
    return c;
}

/// What an H200 has; what another device lacks is asked in the test.
std::vector<SmallCall> small_calls() {
    DeviceInfo info;
    info.compute_capability = 90;
    info.multiprocessors = 132;
    info.shared_memory_bytes = 232448;
    std::vector<SmallCall> calls;
    for (const NamedFormat& format : small_formats())
        for (const Kind kind : {Kind::ids, Kind::logits, Kind::long_}) {
            const FusedMoeProblem p = small_call({format, kind, "wide"}).problem;
            cuda::FusedMoeCuda cuda{.grid = info.multiprocessors};
            cuda.pass_tokens = cuda::pass_tokens(p, {}, cuda, false);
            cuda.grid_pass_tokens = cuda::pass_tokens(p, {}, cuda, true);
            cuda.wide_tokens = cuda::wide_tokens(p, {}, cuda);
            cuda.gather_tokens = cuda::gather_pass_tokens(p);
            for (const std::string& variant : cuda::legal_variants(p, cuda, info, {}).names()) {
                const bool wide = begins_with(variant, "wide");
                if (kind == Kind::long_ && !wide && !begins_with(variant, "grouped")) continue;
                if (kind == Kind::logits && wide) continue;  // from the ids of a launch before, which others have too
                calls.push_back({format, kind, variant});
            }
        }
    return calls;
}

class FusedMoeSmall : public testing::TestWithParam<SmallCall> {};

TEST_P(FusedMoeSmall, CallMatchesTheDefinition) {
    TOKAMAK_REQUIRE_GPU();
    const SmallCall& call = GetParam();
    const FusedMoeCase c = small_call(call);
    const std::vector<std::string> legal = make_plan(c.problem, Device::cuda()).state().variants;
    if (std::find(legal.begin(), legal.end(), call.variant) == legal.end()) GTEST_SKIP() << "not on this device";
    const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), {.variant = call.variant});
    Rng rng = rng_for(2500);
    if (call.kind == Kind::logits) {
        const LogitData host = logit_data(rng, c, false);
        const LogitData device = host.on(Device::cuda());
        expect_near(run_guarded(plan, device.args(c.tokens)), reference(host.data), tolerance_of(c.problem));
        return;
    }
    const FusedMoeData host = random_data(rng, c);
    const FusedMoeData device = host.on(Device::cuda());
    expect_near(run_guarded(plan, device.args()), reference(host), tolerance_of(c.problem));
}

INSTANTIATE_TEST_SUITE_P(Moe, FusedMoeSmall, testing::ValuesIn(small_calls()),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace tokamak::moe::test
