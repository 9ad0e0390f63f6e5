// SPDX-License-Identifier: Apache-2.0
// What the tests of fused_moe on a GPU share: cases, and their results against the definition in double.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/plan_state.h"
#include "moe/moe_cases.h"

namespace tokamak::moe::test {

/// What the weights are, and for fp8_block what becomes of the activations.
struct Format {
    Format(const WeightSpec& spec, bool quantized_activations = false)
        : weights(spec), quantized(quantized_activations) {}

    WeightSpec weights;
    bool quantized;
};

inline const std::vector<Format>& formats() {
    static const std::vector<Format> all = {{WeightSpec::bf16()},
                                            {WeightSpec::fp8_block()},
                                            {WeightSpec::fp8_block(), true},
                                            {WeightSpec::int4(32)},
                                            {WeightSpec::int4(64)},
                                            {WeightSpec::int4(128)},
                                            {WeightSpec::int4(32, DType::f16)},
                                            {WeightSpec::int4(64, DType::f16)},
                                            {WeightSpec::int4(128, DType::f16)},
                                            {WeightSpec::mxfp4()},
                                            {WeightSpec::nvfp4()}};
    return all;
}

/// A size that the format allows: any for the wide ones, else whole groups.
inline std::int64_t allowed_size(const WeightSpec& spec, std::int64_t about) {
    const bool any = spec.format == WeightFormat::bf16 || spec.format == WeightFormat::fp8_block;
    return any ? about : (about + spec.group_size - 1) / spec.group_size * spec.group_size;
}

inline FusedMoeCase gpu_case(const Format& format, std::int64_t tokens, std::int64_t hidden,
                             std::int64_t intermediate) {
    FusedMoeCase c;
    c.tokens = tokens;
    c.problem = {.max_tokens = tokens,
                 .hidden = allowed_size(format.weights, hidden),
                 .intermediate = allowed_size(format.weights, intermediate),
                 .num_experts = 7,
                 .num_local_experts = 5,
                 .top_k = 3,
                 .weights = format.weights,
                 .quantize_activations = format.quantized};
    c.placement = Placement::scattered;
    c.bad_ids = 0.1;
    return c;
}

inline Tolerance tolerance_of(const FusedMoeProblem& p) {
    return tolerance_for(p.weights, Accumulation::f32,
                         {p.act_dtype, p.out_dtype, p.routing_weight == RoutingWeight::input, p.quantize_activations});
}

/// Names of the variants of a problem that begin with `prefix`.
inline std::vector<std::string> gpu_variants(const FusedMoeProblem& problem, const std::string& prefix) {
    std::vector<std::string> names = make_plan(problem, Device::cuda()).state().variants;
    std::erase_if(names, [&](const std::string& name) { return name.rfind(prefix, 0) != 0; });
    return names;
}

/// Every variant whose name begins with `prefix`, of which there must be one, for the given leading numbers of tokens.
inline void expect_reference(const FusedMoeCase& c, std::uint64_t purpose, std::initializer_list<std::int64_t> counts,
                             const std::string& prefix = "", PlanOptions options = {}) {
    SCOPED_TRACE(to_string(c));
    Rng rng = rng_for(purpose);
    const FusedMoeData host = random_data(rng, c);
    const FusedMoeData data = host.on(Device::cuda());
    const std::vector<Expected> want = reference(host);
    const std::vector<std::string> variants = gpu_variants(c.problem, prefix);
    ASSERT_FALSE(variants.empty());
    for (const std::string& variant : variants) {
        options.variant = variant;
        const FusedMoePlan plan = make_plan(c.problem, Device::cuda(), options);
        for (const std::int64_t tokens : counts) {
            SCOPED_TRACE(variant + ", tokens " + std::to_string(tokens));
            const OwnedTensor got = run_guarded(plan, data.args(tokens), tokens % 2 == 0 ? 0xFF : 0x7F);
            const std::vector<Expected> head(want.begin(), want.begin() + tokens * c.problem.hidden);
            expect_near(got, head, tolerance_of(c.problem));
        }
    }
}

}  // namespace tokamak::moe::test
