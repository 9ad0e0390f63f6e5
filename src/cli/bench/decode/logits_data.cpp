// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/logits_data.h"

#include <utility>

#include "cli/bench/random_tensor.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::uint32_t kBiasSeed = 4093;
constexpr float kBiasDeviation =
    0.002F;  ///< less than the best sigmoids of a token differ by: no expert is a favourite

}  // namespace

RoutedLogits routed_logits(const MoeShape& shape, std::int64_t tokens, std::uint32_t seed) {
    RoutedLogits routed;
    Generator generator(seed);
    routed.logits = normal(generator, DType::f32, {tokens, shape.experts});
    if (shape.routing.method == moe::RouteMethod::sigmoid_grouped) {
        Generator of_bias(kBiasSeed);
        routed.bias = normal(of_bias, DType::f32, {shape.experts}, kBiasDeviation);
    }
    moe::RouteArgs args;
    args.tokens = tokens;
    args.logits = routed.logits;
    if (routed.bias.view()) args.correction_bias = routed.bias;
    moe::RouteResult chosen = moe::route(route_problem(shape, tokens), args);
    routed.ids = std::move(chosen.ids);
    routed.weights = std::move(chosen.weights);
    return routed;
}

moe::RouteRule route_rule(const MoeShape& shape) {
    const moe::RouteProblem& rule = shape.routing;
    return {.method = rule.method,
            .renormalize = rule.renormalize,
            .routed_scaling_factor = rule.routed_scaling_factor,
            .num_groups = rule.num_groups,
            .top_groups = rule.top_groups};
}

}  // namespace tokamak::cli::bench
