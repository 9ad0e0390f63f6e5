// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/moe_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cli/bench/random_tensor.h"
#include "cli/conformance/compare.h"
#include "core/choose.h"

namespace tokamak::cli::bench {
namespace {

/// Against f64: the rounding of the output, of the activations between the GEMMs and of dequantised weights to bf16,
/// each about 1.1e-3 in the norm, plus float sums.
constexpr Distance kLimit{5e-3, 1e-2};

OwnedTensor to_f32(const Tensor& source, std::int64_t count) {
    OwnedTensor wide = OwnedTensor::allocate(DType::f32, {count});
    for (std::int64_t i = 0; i < count; ++i) conformance::set_element(wide, i, conformance::element(source, i));
    return wide;
}

/// logits[t, e] = x[t] . router[e] + bias[e], in float as the models compute it.
OwnedTensor router_logits(const Tensor& x, const float* router, const float* bias, std::int64_t experts) {
    const std::int64_t hidden = x.size(1);
    const OwnedTensor rows = to_f32(x, x.elements());
    OwnedTensor logits = OwnedTensor::allocate(DType::f32, {x.size(0), experts});
    for (std::int64_t t = 0; t < x.size(0); ++t) {
        for (std::int64_t e = 0; e < experts; ++e) {
            float sum = bias != nullptr ? bias[e] : 0.0F;
            for (std::int64_t k = 0; k < hidden; ++k) sum += rows.as<float>()[t * hidden + k] * router[e * hidden + k];
            logits.as<float>()[t * experts + e] = sum;
        }
    }
    return logits;
}

class LayerRun {
  public:
    LayerRun(Report& report, const MoeLayer& layer)
        : report_(report), layer_(layer), experts_(static_cast<int>(layer.experts.num_experts)) {
        max_tokens_ = *std::max_element(report.settings().tokens.begin(), report.settings().tokens.end());
    }

    void run() {
        x_ = normal(generator_, DType::bf16, {max_tokens_, layer_.experts.hidden});
        route_tokens();
        problem_ = fused_problem();
        const OwnedTensor reference = oracle();
        const auto plan = make_plan(problem_, report_.settings().device);
        const OwnedWorkspace workspace(plan.workspace(), report_.settings().device);
        for (const std::int64_t tokens : report_.settings().tokens) {
            report_.progress(fmt::format("{}: {} tokens", layer_.name, tokens));
            measure(plan, workspace, tokens, reference.view().first_rows(std::min(tokens, reference.view().size(0))));
        }
    }

  private:
    /// The layer's router where the file has one, otherwise random logits.
    OwnedTensor logits() {
        const Tensor& router = layer_.experts.router_weight;
        if (!router) return normal(generator_, DType::f32, {max_tokens_, experts_});
        const OwnedTensor weights = to_f32(router, experts_ * layer_.experts.hidden);
        const bool biased = layer_.routing.method == moe::RouteMethod::softmax && layer_.experts.router_bias.view();
        const OwnedTensor bias = biased ? to_f32(layer_.experts.router_bias, experts_) : OwnedTensor();
        return router_logits(x_, weights.as<float>(), biased ? bias.as<float>() : nullptr, experts_);
    }

    void route_tokens() {
        report_.progress(fmt::format("{}: routing", layer_.name));
        moe::RouteProblem problem = layer_.routing;
        problem.max_tokens = max_tokens_;
        problem.num_experts = experts_;
        moe::RouteArgs args;
        args.tokens = max_tokens_;
        const OwnedTensor scores = logits();
        args.logits = scores;
        OwnedTensor correction;
        if (problem.method == moe::RouteMethod::sigmoid_grouped && layer_.experts.router_bias.view()) {
            correction = to_f32(layer_.experts.router_bias, experts_);
            args.correction_bias = correction;
        }
        routed_ = moe::route(problem, args);
    }

    [[nodiscard]] moe::FusedMoeProblem fused_problem() const {
        moe::FusedMoeProblem problem;
        problem.max_tokens = max_tokens_;
        problem.hidden = layer_.experts.hidden;
        problem.intermediate = layer_.experts.intermediate;
        problem.num_experts = experts_;
        problem.top_k = layer_.routing.top_k;
        problem.weights = layer_.experts.spec;
        problem.activation = layer_.activation;
        return problem;
    }

    [[nodiscard]] moe::FusedMoeArgs args_for(std::int64_t tokens) const {
        moe::FusedMoeArgs args;
        args.tokens = tokens;
        args.x = x_.view().first_rows(tokens);
        args.ids = routed_.ids.view().first_rows(tokens);
        args.weights = routed_.weights.view().first_rows(tokens);
        args.gate_up = layer_.experts.gate_up;
        args.down = layer_.experts.down;
        args.gate_up_bias = layer_.experts.gate_up_bias;
        args.down_bias = layer_.experts.down_bias;
        return args;
    }

    OwnedTensor oracle() {
        const std::int64_t tokens = std::min(max_tokens_, report_.settings().oracle_tokens);
        report_.progress(fmt::format("{}: float64 oracle", layer_.name));
        moe::FusedMoeProblem problem = problem_;
        problem.out_dtype = DType::f64;
        return fused_moe(make_plan(problem, Device::cpu(), {.variant = kCpuF64}), args_for(tokens));
    }

    void measure(const moe::FusedMoePlan& plan, const OwnedWorkspace& workspace, std::int64_t tokens,
                 const Tensor& reference) {
        const OwnedTensor out =
            OwnedTensor::allocate(problem_.out_dtype, {tokens, problem_.hidden}, report_.settings().device);
        moe::FusedMoeArgs args = args_for(tokens);
        Measured measured;
        measured.owning = [&plan, args] { return fused_moe(plan, args); };
        args.out = out;
        measured.preallocated = [&plan, &workspace, args] { moe::run(plan, args, workspace); };
        measured.out = out;
        measured.workspace = workspace;
        measured.reference = reference;
        measured.limit = kLimit;
        measured.row = row(plan, tokens);
        report_.measure(measured);
    }

    [[nodiscard]] ResultRow row(const moe::FusedMoePlan& plan, std::int64_t tokens) const {
        ResultRow row;
        row.op = plan.op();
        row.shape = layer_.name;
        row.format = to_string(problem_.weights);
        row.tokens = tokens;
        row.routing = layer_.experts.router_weight.view() ? "router" : "random";
        row.variant = plan.row_for(tokens).variant;
        const std::size_t expert_bytes =
            layer_.experts.gate_up_layout.matrix_bytes + layer_.experts.down_layout.matrix_bytes;
        row.bytes = static_cast<double>(used_experts(tokens)) * static_cast<double>(expert_bytes) +
                    static_cast<double>(tokens * problem_.hidden * 2 * 2);
        row.flops = 2.0 * 3.0 * static_cast<double>(tokens * problem_.top_k) * static_cast<double>(problem_.hidden) *
                    static_cast<double>(problem_.intermediate);
        return row;
    }

    /// Experts that at least one token goes to.
    [[nodiscard]] std::int64_t used_experts(std::int64_t tokens) const {
        std::vector<bool> used(static_cast<std::size_t>(experts_));
        for (std::int64_t i = 0; i < tokens * problem_.top_k; ++i)
            used[static_cast<std::size_t>(routed_.ids.as<std::int32_t>()[i])] = true;
        return std::count(used.begin(), used.end(), true);
    }

    Report& report_;
    const MoeLayer& layer_;
    int experts_;
    std::int64_t max_tokens_ = 0;
    Generator generator_{2025};
    OwnedTensor x_;
    moe::RouteResult routed_;
    moe::FusedMoeProblem problem_;
};

}  // namespace

void run_moe_layer(Report& report, const MoeLayer& layer) { LayerRun(report, layer).run(); }

}  // namespace tokamak::cli::bench
