// SPDX-License-Identifier: Apache-2.0
#include "moe/moe_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace tokamak::moe::test {
namespace {

/// An id that names no expert; those of 64 bits also beyond 32.
std::int64_t bad_id(Rng& rng, int num_experts, DType dtype) {
    using Limits = std::numeric_limits<std::int32_t>;
    const std::vector<std::int64_t> choices = {-1, -7, num_experts, num_experts + 3, Limits::max(), Limits::min()};
    const auto choice = static_cast<std::size_t>(uniform_int(rng, 0, static_cast<std::int64_t>(choices.size())));
    if (choice < choices.size()) return choices[choice];
    return dtype == DType::i64 ? std::int64_t{1} << 40 : -1;
}

/// Global experts that are local, in the order of their rows.
std::vector<int> local_globals(Rng& rng, const RoutingCase& c, int first_expert) {
    std::vector<int> globals(static_cast<std::size_t>(c.num_experts));
    std::iota(globals.begin(), globals.end(), 0);
    if (c.placement == Placement::scattered) std::shuffle(globals.begin(), globals.end(), rng);
    if (c.placement == Placement::range) std::rotate(globals.begin(), globals.begin() + first_expert, globals.end());
    globals.resize(static_cast<std::size_t>(c.local_experts));
    return globals;
}

OwnedTensor map_of(Rng& rng, const std::vector<int>& local_rows, int local_experts) {
    const std::vector<double> elsewhere = {-1, -2, -1000000, static_cast<double>(local_experts), 2e9};
    std::vector<double> map;
    for (const int row : local_rows) {
        const auto spelling = static_cast<std::size_t>(uniform_int(rng, 0, 4));
        map.push_back(row >= 0 ? row : elsewhere[spelling]);
    }
    return tensor_of(DType::i32, {static_cast<std::int64_t>(map.size())}, map);
}

}  // namespace

int Routing::row(std::int64_t token, std::int64_t slot) const {
    const std::int64_t index = token * ids.view().size(1) + slot;
    const double id = value_of(ids.view().data, ids.view().dtype, index);
    if (id < 0 || id >= static_cast<double>(local_rows.size())) return -1;
    return local_rows[static_cast<std::size_t>(id)];
}

double Routing::weight(std::int64_t token, std::int64_t slot) const {
    if (!weights.view()) return 1.0;
    return value_of(weights.view().data, weights.view().dtype, token * ids.view().size(1) + slot);
}

Routing random_routing(Rng& rng, const RoutingCase& c) {
    Routing routing;
    if (c.placement == Placement::range)
        routing.first_expert = static_cast<int>(uniform_int(rng, 0, c.num_experts - c.local_experts));
    routing.local_rows.assign(static_cast<std::size_t>(c.num_experts), -1);
    int row = 0;
    for (const int global : local_globals(rng, c, routing.first_expert))
        routing.local_rows[static_cast<std::size_t>(global)] = row++;
    if (c.placement == Placement::scattered) routing.expert_map = map_of(rng, routing.local_rows, c.local_experts);

    std::vector<double> ids;
    for (std::int64_t route = 0; route < c.tokens * c.top_k; ++route) {
        const bool bad = uniform(rng, 0, 1) < c.bad_ids;
        ids.push_back(static_cast<double>(bad ? bad_id(rng, c.num_experts, c.ids_dtype)
                                              : uniform_int(rng, 0, c.num_experts - 1)));
    }
    routing.ids = tensor_of(c.ids_dtype, {c.tokens, c.top_k}, ids);
    routing.weights = random_tensor(rng, c.weights_dtype, {c.tokens, c.top_k});
    return routing;
}

std::string to_string(const FusedMoeCase& c) {
    const FusedMoeProblem& p = c.problem;
    std::string text = to_string(p.weights) + " tokens " + std::to_string(c.tokens) + " hidden " +
                       std::to_string(p.hidden) + " intermediate " + std::to_string(p.intermediate) + " experts " +
                       std::to_string(p.num_local_experts) + " of " + std::to_string(p.num_experts) + " top_k " +
                       std::to_string(p.top_k) + " act " + to_string(p.act_dtype) + " out " + to_string(p.out_dtype) +
                       " activation " + std::to_string(static_cast<int>(p.activation.kind)) + " weight at " +
                       std::to_string(static_cast<int>(p.routing_weight));
    if (p.quantize_activations) text += " quantized";
    if (c.gate_up_bias) text += " gate_up_bias";
    if (c.down_bias) text += " down_bias";
    if (c.shared_output) text += " shared";
    return text + " seed " + std::to_string(base_seed());
}

Tensor leading(const Tensor& tensor, std::int64_t rows) { return tensor ? tensor.first_rows(rows) : tensor; }

FusedMoeArgs FusedMoeData::args(std::int64_t tokens) const {
    FusedMoeArgs a;
    a.tokens = tokens;
    a.x = leading(x, tokens);
    a.ids = leading(routing.ids, tokens);
    a.weights = c.problem.routing_weight == RoutingWeight::none ? Tensor() : leading(routing.weights, tokens);
    a.gate_up = gate_up.packed;
    a.down = down.packed;
    a.gate_up_bias = gate_up_bias;
    a.down_bias = down_bias;
    a.expert_map = routing.expert_map;
    a.first_expert = routing.first_expert;
    a.shared_output = leading(shared_output, tokens);
    return a;
}

namespace {

Experts copy_to(const Experts& experts, Device device) {
    return {experts.layout, OwnedTensor::copy_of(experts.packed, device), experts.dense};
}

Routing copy_to(const Routing& routing, Device device) {
    return {OwnedTensor::copy_of(routing.ids, device), OwnedTensor::copy_of(routing.weights, device),
            OwnedTensor::copy_of(routing.expert_map, device), routing.first_expert, routing.local_rows};
}

}  // namespace

FusedMoeData FusedMoeData::on(Device device) const {
    return {c,
            copy_to(gate_up, device),
            copy_to(down, device),
            copy_to(routing, device),
            OwnedTensor::copy_of(x, device),
            OwnedTensor::copy_of(gate_up_bias, device),
            OwnedTensor::copy_of(down_bias, device),
            OwnedTensor::copy_of(shared_output, device)};
}

FusedMoeData random_data(Rng& rng, const FusedMoeCase& c) {
    const FusedMoeProblem& p = c.problem;
    const int local = p.num_local_experts > 0 ? p.num_local_experts : p.num_experts;
    FusedMoeData data;
    data.c = c;
    data.gate_up = random_experts(rng, p.weights, local, 2 * p.intermediate, p.hidden, true, c.scale_drift);
    data.down = random_experts(rng, p.weights, local, p.hidden, p.intermediate, false, c.scale_drift);
    data.routing = random_routing(
        rng, {c.tokens, p.num_experts, local, p.top_k, c.placement, c.ids_dtype, c.weights_dtype, c.bad_ids});
    data.x = random_tensor(rng, p.act_dtype, {c.tokens, p.hidden}, c.x_scale);
    if (c.gate_up_bias) data.gate_up_bias = random_tensor(rng, c.bias_dtype, {local, 2 * p.intermediate});
    if (c.down_bias) data.down_bias = random_tensor(rng, c.bias_dtype, {local, p.hidden});
    if (c.shared_output) data.shared_output = random_tensor(rng, p.act_dtype, {c.tokens, p.hidden});
    return data;
}

RoutedGemmArgs RoutedGemmData::args(std::int64_t tokens) const {
    RoutedGemmArgs a;
    a.tokens = tokens;
    a.x = leading(x, tokens);
    a.ids = leading(routing.ids, tokens);
    a.weights = c.problem.apply_routing_weight ? leading(routing.weights, tokens) : Tensor();
    a.matrix = matrix.packed;
    a.expert_map = routing.expert_map;
    a.first_expert = routing.first_expert;
    return a;
}

RoutedGemmData RoutedGemmData::on(Device device) const {
    return {c, copy_to(matrix, device), copy_to(routing, device), OwnedTensor::copy_of(x, device)};
}

RoutedGemmData random_data(Rng& rng, const RoutedGemmCase& c) {
    const RoutedGemmProblem& p = c.problem;
    const int local = p.num_local_experts > 0 ? p.num_local_experts : p.num_experts;
    RoutedGemmData data;
    data.c = c;
    data.matrix = random_experts(rng, p.weights, local, p.rows, p.cols, false);
    data.routing = random_routing(
        rng, {c.tokens, p.num_experts, local, p.top_k, c.placement, c.ids_dtype, c.weights_dtype, c.bad_ids});
    data.x = random_tensor(rng, p.act_dtype, {c.tokens, p.cols}, 2.0);
    return data;
}

namespace {

template <class MoePlan, class Args>
OwnedTensor run_guarded_as(const MoePlan& plan, Args args, std::int64_t cols, DType dtype, std::uint8_t poison) {
    const auto bytes = static_cast<std::size_t>(args.tokens * cols) * size_of(dtype);
    const GuardedBuffer out(bytes, plan.device(), poison);
    const GuardedBuffer workspace(plan.workspace().bytes, plan.device(), poison);
    args.out = out.tensor(dtype, {args.tokens, cols});
    run(plan, args, workspace.workspace());
    synchronize(plan.device());
    EXPECT_TRUE(out.guards_intact()) << "written outside of out";
    EXPECT_TRUE(workspace.guards_intact()) << "written outside of the workspace";
    return to_host(args.out);
}

}  // namespace

OwnedTensor run_guarded(const FusedMoePlan& plan, FusedMoeArgs args, std::uint8_t poison) {
    return run_guarded_as(plan, args, plan.problem().hidden, plan.problem().out_dtype, poison);
}

OwnedTensor run_guarded(const RoutedGemmPlan& plan, RoutedGemmArgs args, std::uint8_t poison) {
    return run_guarded_as(plan, args, plan.problem().rows, plan.problem().out_dtype, poison);
}

void expect_near(const Tensor& got, const std::vector<Expected>& want, const Tolerance& tolerance) {
    const std::vector<double> values = values_of(got);
    ASSERT_EQ(values.size(), want.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        const double error = std::fabs(values[i] - want[i].value);
        ASSERT_LE(error, allowed(tolerance, want[i]))
            << "value " << i % static_cast<std::size_t>(got.size(1)) << " of token "
            << i / static_cast<std::size_t>(got.size(1)) << " is " << values[i] << ", expected " << want[i].value;
    }
}

double share_within(const Tensor& got, const std::vector<Expected>& want, const Tolerance& tolerance) {
    const std::vector<double> values = values_of(got);
    std::size_t inside = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (std::fabs(values[i] - want[i].value) <= allowed(tolerance, want[i])) ++inside;
    return static_cast<double>(inside) / static_cast<double>(values.size());
}

}  // namespace tokamak::moe::test
