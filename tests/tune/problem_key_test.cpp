// SPDX-License-Identifier: Apache-2.0
// Problems that may want different variants have different keys: each field changes the key.
#include "mla/problem_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "moe/problem_key.h"

namespace tokamak {
namespace {

template <class Problem>
void expect_distinct(const Problem& base, const std::vector<std::function<void(Problem&)>>& changes) {
    std::set<std::string> keys = {problem_key(base)};
    for (std::size_t i = 0; i < changes.size(); ++i) {
        Problem changed = base;
        changes[i](changed);
        EXPECT_TRUE(keys.insert(problem_key(changed)).second) << "change " << i << ": " << problem_key(changed);
    }
}

TEST(ProblemKey, EveryFieldOfFusedMoeCounts) {
    using Problem = moe::FusedMoeProblem;
    const Problem base{.max_tokens = 64, .hidden = 2048, .intermediate = 768, .num_experts = 128, .top_k = 8};
    expect_distinct<Problem>(
        base, {[](Problem& p) { p.hidden = 4096; },
               [](Problem& p) { p.intermediate = 1536; },
               [](Problem& p) { p.num_experts = 256; },
               [](Problem& p) { p.num_local_experts = 16; },
               [](Problem& p) { p.num_local_experts = 32; },
               [](Problem& p) { p.top_k = 4; },
               [](Problem& p) { p.weights = WeightSpec::int4(32); },
               [](Problem& p) { p.weights = WeightSpec::int4(64); },
               [](Problem& p) { p.weights = WeightSpec::int4(32, DType::f16); },
               [](Problem& p) { p.weights = WeightSpec::mxfp4(); },
               [](Problem& p) { p.activation = moe::Activation::gpt_oss(); },
               [](Problem& p) { p.activation = moe::Activation::swiglu_clamped(7); },
               [](Problem& p) { p.routing_weight = moe::RoutingWeight::input; },
               [](Problem& p) { p.routing_weight = moe::RoutingWeight::none; },
               [](Problem& p) { p.quantize_activations = true; },
               [](Problem& p) { p.act_dtype = DType::f16; },
               [](Problem& p) { p.out_dtype = DType::f32; },
               [](Problem& p) { p.route = moe::RouteRule{}; },
               [](Problem& p) { p.route = moe::RouteRule{.logits_dtype = DType::bf16}; },
               [](Problem& p) { p.route = moe::RouteRule{.method = moe::RouteMethod::sigmoid_grouped}; },
               [](Problem& p) {
                   p.route =
                       moe::RouteRule{.method = moe::RouteMethod::sigmoid_grouped, .num_groups = 8, .top_groups = 4};
               }});
}

TEST(ProblemKey, EveryFieldOfSparseAttentionCounts) {
    using Problem = mla::SparseAttentionProblem;
    const mla::KvPool pool{.format = KvFormat::fp8_656, .rows = 4096, .page_size = 64, .top_k = 2048};
    const Problem base{.max_tokens = 64, .heads = 128, .dim = 576, .value_dim = 512, .pools = {pool}};
    expect_distinct<Problem>(
        base, {[](Problem& p) { p.heads = 64; }, [](Problem& p) { p.dim = 512; }, [](Problem& p) { p.value_dim = 448; },
               [](Problem& p) { p.q_dtype = DType::f16; }, [](Problem& p) { p.out_dtype = DType::f32; },
               [](Problem& p) { p.pools[0].format = KvFormat::bf16; }, [](Problem& p) { p.pools[0].page_size = 1; },
               [](Problem& p) { p.pools[0].top_k = 512; }, [](Problem& p) { p.pools[0].has_table = true; },
               [](Problem& p) { p.pools[0].has_length = true; }, [](Problem& p) { p.pools.push_back(p.pools[0]); }});
}

TEST(ProblemKey, WhatDoesNotMatterDoesNotCount) {
    moe::FusedMoeProblem moe{.max_tokens = 1, .hidden = 2048, .num_experts = 8};
    const std::string key = problem_key(moe);
    moe.max_tokens = 8192;
    moe.activation.limit = 3;
    moe.num_local_experts = 8;  // all, as 0
    EXPECT_EQ(problem_key(moe), key);
    mla::SparseAttentionProblem mla{.max_tokens = 1, .heads = 64, .pools = {{.rows = 64}}};
    const std::string mla_key = problem_key(mla);
    mla.max_tokens = 128;
    mla.pools[0].rows = 1 << 20;
    EXPECT_EQ(problem_key(mla), mla_key);
}

}  // namespace
}  // namespace tokamak
