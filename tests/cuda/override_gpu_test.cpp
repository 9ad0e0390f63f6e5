// SPDX-License-Identifier: Apache-2.0
// TOKAMAK_MOE_CONFIG and TOKAMAK_SPARSE_MLA_CONFIG as make_plan reads them: unset, empty, partial, whole, invalid.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/environment.h"
#include "core/plan_state.h"
#include "cuda/gpu.h"
#include "support/expect_error.h"
#include "support/scoped.h"
#include "tokamak/mla.h"
#include "tokamak/moe.h"

namespace tokamak::test {
namespace {

constexpr std::int64_t kTokens[] = {0, 1, 2, 8, 64};

moe::FusedMoeProblem moe_problem() {
    return {.max_tokens = 64,
            .hidden = 2048,
            .intermediate = 768,
            .num_experts = 128,
            .top_k = 8,
            .weights = WeightSpec::mxfp4(),
            .activation = {}};
}

mla::SparseAttentionProblem mla_problem() {
    return {.max_tokens = 64,
            .heads = 128,
            .dim = 576,
            .value_dim = 512,
            .pools = {{.format = KvFormat::fp8_656, .rows = 65536, .page_size = 64, .top_k = 2048}}};
}

template <class Problem>
std::vector<std::string> chosen(const Problem& problem, const PlanOptions& options = {}) {
    const auto plan = make_plan(problem, Device::cuda(), options);
    std::vector<std::string> rows;
    for (const std::int64_t tokens : kTokens)
        rows.push_back(plan.row_for(tokens).variant + " " + plan.row_for(tokens).source);
    return rows;
}

template <class Problem>
void expect_overrides(const Problem& problem, const char* variable) {
    std::vector<std::string> plain;
    std::vector<std::string> variants;
    {
        const ScopedVariable unset(variable, std::nullopt);
        plain = chosen(problem);
        variants = make_plan(problem, Device::cuda()).state().variants;
    }
    for (const char* nothing : {"", "{}"}) {
        const ScopedVariable text(variable, nothing);
        EXPECT_EQ(chosen(problem), plain) << nothing;
    }
    for (const std::string& variant : variants) {
        const ScopedVariable text(variable, R"({"variant": ")" + variant + "\"}");
        EXPECT_EQ(chosen(problem), std::vector<std::string>(std::size(kTokens), variant + " override"));
        EXPECT_EQ(chosen(problem, {.variant = variants.front()}),
                  std::vector<std::string>(std::size(kTokens), variants.front() + " option"))
            << "what a program pins goes before the environment";
    }
    const auto refused = [&](const char* given, const char* part) {
        const ScopedVariable text(variable, given);
        expect_error([&] { make_plan(problem, Device::cuda()); }, ErrorCode::parse, {variable, part});
    };
    refused("{", "not valid JSON");
    refused("[1]", "expected a JSON object");
    refused("7", "expected a JSON object");
    refused(R"({"tile": 3})", "\"tile\" with value 3");
    refused(R"({"variant": 3})", "\"variant\" is 3");
    refused(R"({"variant": "fastest"})", "\"variant\" is \"fastest\"");
}

TEST(OverrideGpu, FusedMoe) {
    TOKAMAK_REQUIRE_GPU();
    expect_overrides(moe_problem(), environment::kMoeConfig);
}

TEST(OverrideGpu, SparseAttention) {
    TOKAMAK_REQUIRE_GPU();
    expect_overrides(mla_problem(), environment::kSparseMlaConfig);
}

TEST(OverrideGpu, PartialOverridesKeepTheOtherFieldOfEachTokenCount) {
    TOKAMAK_REQUIRE_GPU();
    const std::vector<std::string> plain = chosen(mla_problem());
    const ScopedVariable text(environment::kSparseMlaConfig, R"({"splits": 2})");
    const std::vector<std::string> split = chosen(mla_problem());
    for (std::size_t i = 0; i < plain.size(); ++i) {
        SCOPED_TRACE(plain[i]);
        // The flat and the grid form have no two splits: a form that has them takes over, for the grid form that of the
        // same heads by clusters.
        if (plain[i].rfind("flat_decode_", 0) == 0) {
            EXPECT_TRUE(split[i].rfind("sparse_decode_", 0) == 0 && split[i].find("_s2 override") != std::string::npos)
                << split[i];
            continue;
        }
        std::string expected = plain[i].substr(0, plain[i].rfind("_s")) + "_s2 override";
        if (expected.rfind("grid_", 0) == 0) expected.replace(0, 4, "direct");
        EXPECT_EQ(split[i], expected) << kTokens[i];
    }
}

}  // namespace
}  // namespace tokamak::test
