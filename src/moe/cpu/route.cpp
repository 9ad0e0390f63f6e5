// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/route.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>

#include "moe/cpu/elements.h"
#include "moe/cpu/parallel.h"
#include "moe/problem_checks.h"

namespace tokamak::moe::cpu {
namespace {

/// Everything that one row needs, on the stack of its thread.
struct RowScratch {
    std::array<float, kMaxExperts> weight;  ///< what a selected expert weighs before renormalisation
    std::array<float, kMaxExperts> choice;  ///< what experts are chosen by
    std::array<std::int32_t, kMaxExperts> order;
};

/// Higher value first, ties to the lower id.
void order_best_first(std::span<std::int32_t> ids, std::size_t count, const float* value) {
    std::partial_sort(
        ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
        [value](std::int32_t a, std::int32_t b) { return value[a] > value[b] || (value[a] == value[b] && a < b); });
}

template <class Acc>
void softmax_scores(const Tensor& logits, std::int64_t row, int experts, RowScratch& scratch) {
    const std::int64_t begin = row_begin(logits, row);
    const auto logit = [&](int e) { return load_element<Acc>(logits.data, logits.dtype, begin + e); };
    Acc largest = -std::numeric_limits<Acc>::infinity();
    for (int e = 0; e < experts; ++e) largest = std::max(largest, logit(e));
    Acc sum = 0;
    for (int e = 0; e < experts; ++e) sum += std::exp(logit(e) - largest);
    for (int e = 0; e < experts; ++e) {
        const auto p = static_cast<float>(std::exp(logit(e) - largest) / sum);
        scratch.weight[static_cast<std::size_t>(e)] = p;
        scratch.choice[static_cast<std::size_t>(e)] = p;
    }
}

template <class Acc>
void sigmoid_scores(const Tensor& logits, const Tensor& bias, std::int64_t row, int experts, RowScratch& scratch) {
    const std::int64_t begin = row_begin(logits, row);
    for (int e = 0; e < experts; ++e) {
        const Acc logit = load_element<Acc>(logits.data, logits.dtype, begin + e);
        const Acc score = Acc{1} / (Acc{1} + std::exp(-logit));
        const Acc added = bias.present ? Acc{bias.as<float>()[e]} : Acc{0};
        scratch.weight[static_cast<std::size_t>(e)] = static_cast<float>(score);
        scratch.choice[static_cast<std::size_t>(e)] = static_cast<float>(score + added);
    }
}

/// Puts the experts of the `top_groups` best groups into `order` and returns how many there are. A group is worth the
/// sum of its two best choices; the experts of the other groups cannot be chosen at all.
std::size_t keep_best_groups(const RouteProblem& problem, RowScratch& scratch) {
    const int size = problem.num_experts / problem.num_groups;
    std::array<float, kMaxExperts> worth;
    std::array<std::int32_t, kMaxExperts> groups;
    for (int g = 0; g < problem.num_groups; ++g) {
        float best = -std::numeric_limits<float>::infinity();
        float second = best;
        for (int e = g * size; e < (g + 1) * size; ++e) {
            const float value = scratch.choice[static_cast<std::size_t>(e)];
            second = std::max(second, std::min(best, value));
            best = std::max(best, value);
        }
        worth[static_cast<std::size_t>(g)] = best + second;
        groups[static_cast<std::size_t>(g)] = g;
    }
    const auto kept = static_cast<std::size_t>(problem.top_groups);
    order_best_first({groups.data(), static_cast<std::size_t>(problem.num_groups)}, kept, worth.data());
    std::size_t count = 0;
    for (std::size_t g = 0; g < kept; ++g)
        for (int e = 0; e < size; ++e) scratch.order[count++] = groups[g] * size + e;
    return count;
}

void store_choice(const RouteArgs& args, std::int64_t row, std::int64_t slot, float weight, std::int32_t id) {
    store_element(args.weights.data, args.weights.dtype, row_begin(args.weights, row) + slot, weight);
    const std::int64_t index = row_begin(args.ids, row) + slot;
    if (args.ids.dtype == DType::i64)
        args.ids.as<std::int64_t>()[index] = id;
    else
        args.ids.as<std::int32_t>()[index] = id;
}

template <class Acc>
void store_row(const RouteProblem& problem, const RouteArgs& args, std::int64_t row, const RowScratch& scratch) {
    const auto top_k = static_cast<std::size_t>(problem.top_k);
    Acc sum = 0;
    for (std::size_t j = 0; j < top_k; ++j) sum += scratch.weight[static_cast<std::size_t>(scratch.order[j])];
    if (problem.method == RouteMethod::sigmoid_grouped) sum += Acc{1e-20F};
    for (std::size_t j = 0; j < top_k; ++j) {
        Acc weight = scratch.weight[static_cast<std::size_t>(scratch.order[j])];
        if (problem.renormalize) weight /= sum;
        weight *= Acc{problem.routed_scaling_factor};
        store_choice(args, row, static_cast<std::int64_t>(j), static_cast<float>(weight), scratch.order[j]);
    }
}

void store_nan_row(const RouteProblem& problem, const RouteArgs& args, std::int64_t row) {
    for (std::int32_t j = 0; j < problem.top_k; ++j)
        store_choice(args, row, j, std::numeric_limits<float>::quiet_NaN(), j);
}

template <class Acc>
void route_row(const RouteProblem& problem, const RouteArgs& args, std::int64_t row) {
    RowScratch scratch;
    const auto experts = static_cast<std::size_t>(problem.num_experts);
    if (problem.method == RouteMethod::softmax)
        softmax_scores<Acc>(args.logits, row, problem.num_experts, scratch);
    else
        sigmoid_scores<Acc>(args.logits, args.correction_bias, row, problem.num_experts, scratch);
    const auto is_nan = [](float value) { return std::isnan(value); };
    if (std::any_of(scratch.choice.begin(), scratch.choice.begin() + problem.num_experts, is_nan))
        return store_nan_row(problem, args, row);

    std::size_t candidates = experts;
    if (problem.method == RouteMethod::sigmoid_grouped && problem.num_groups > 1)
        candidates = keep_best_groups(problem, scratch);
    else
        std::iota(scratch.order.begin(), scratch.order.begin() + problem.num_experts, 0);
    order_best_first({scratch.order.data(), candidates}, static_cast<std::size_t>(problem.top_k),
                     scratch.choice.data());
    store_row<Acc>(problem, args, row, scratch);
}

}  // namespace

template <class Acc>
void route(const RouteProblem& problem, const RouteArgs& args, std::int64_t tokens, int threads) {
    const std::int64_t cost = std::int64_t{30} * problem.num_experts;
    parallel_for(tokens, threads, cost, [&](std::int64_t row, int) { route_row<Acc>(problem, args, row); });
}

template void route<float>(const RouteProblem&, const RouteArgs&, std::int64_t, int);
template void route<double>(const RouteProblem&, const RouteArgs&, std::int64_t, int);

}  // namespace tokamak::moe::cpu
