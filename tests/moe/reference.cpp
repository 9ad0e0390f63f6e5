// SPDX-License-Identifier: Apache-2.0
// The definitions of fused_moe and routed_gemm, token by token and expert by expert, in double.
#include <algorithm>
#include <cmath>

#include "moe/moe_cases.h"

namespace tokamak::moe::test {
namespace {

/// A vector with, for each entry, the sum of the magnitudes it was made of.
struct Products {
    std::vector<double> values;
    std::vector<double> magnitudes;
};

Products multiply(const Dense& matrix, const std::vector<double>& x) {
    Products y;
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
        double sum = 0;
        double magnitude = 0;
        for (std::int64_t col = 0; col < matrix.cols; ++col) {
            const double term = matrix.at(row, col) * x[static_cast<std::size_t>(col)];
            sum += term;
            magnitude += std::fabs(term);
        }
        y.values.push_back(sum);
        y.magnitudes.push_back(magnitude);
    }
    return y;
}

std::vector<double> row_of(const Tensor& tensor, std::int64_t row) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < tensor.size(1); ++i)
        values.push_back(value_of(tensor.data, tensor.dtype, row * tensor.stride(0) + i));
    return values;
}

/// Nearest e4m3 value, ties to even, saturating.
double nearest_e4m3(double value) {
    const double magnitude = std::min(std::fabs(value), 448.0);
    const int exponent = magnitude == 0 ? -6 : std::max(std::ilogb(magnitude), -6);
    const double step = std::ldexp(1.0, exponent - 3);
    return std::copysign(std::min(std::nearbyint(magnitude / step) * step, 448.0), value);
}

std::vector<double> quantized(std::vector<double> row) {
    for (std::size_t begin = 0; begin < row.size(); begin += 128) {
        const std::size_t end = std::min(begin + 128, row.size());
        float largest = 0;
        for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, static_cast<float>(std::fabs(row[i])));
        const float scale = std::max(largest, 1e-10F) / 448.0F;
        for (std::size_t i = begin; i < end; ++i)
            row[i] = nearest_e4m3(static_cast<float>(row[i]) / scale) * static_cast<double>(scale);
    }
    return row;
}

/// Value of one intermediate entry, and how far an error in the sums carries.
struct Entry {
    double value = 0;
    double magnitude = 0;
};

Entry activated(const Activation& activation, double gate, double gate_magnitude, double up, double up_magnitude) {
    if (activation.kind != ActivationKind::swiglu && activation.limit > 0) {
        gate = std::min(gate, static_cast<double>(activation.limit));
        up = std::max(std::min(up, static_cast<double>(activation.limit)), -static_cast<double>(activation.limit));
    }
    const bool gpt_oss = activation.kind == ActivationKind::gpt_oss;
    const double alpha = gpt_oss ? activation.alpha : 1.0;
    const double factor = gpt_oss ? up + 1.0 : up;
    const double value = gate / (1.0 + std::exp(-alpha * gate)) * factor;
    // The derivative of x * sigmoid(alpha * x) never passes 1.1.
    const double carried = 1.1 * std::fabs(factor) * gate_magnitude + std::fabs(gate) * (up_magnitude + 1.0);
    return {value, std::fabs(value) + carried};
}

/// The result of one expert for one row.
std::vector<Expected> apply_expert(const FusedMoeData& data, std::size_t expert, const std::vector<double>& x,
                                   DType intermediate) {
    const FusedMoeProblem& p = data.c.problem;
    Products sums = multiply(data.gate_up.dense[expert], x);
    if (data.gate_up_bias.view()) {
        const std::vector<double> bias = row_of(data.gate_up_bias, static_cast<std::int64_t>(expert));
        for (std::size_t i = 0; i < bias.size(); ++i) {
            sums.values[i] += bias[i];
            sums.magnitudes[i] += std::fabs(bias[i]);
        }
    }
    std::vector<double> a;
    std::vector<double> carried;
    const auto half = static_cast<std::size_t>(p.intermediate);
    for (std::size_t i = 0; i < half; ++i) {
        const Entry entry = activated(p.activation, sums.values[i], sums.magnitudes[i], sums.values[half + i],
                                      sums.magnitudes[half + i]);
        a.push_back(rounded(entry.value, intermediate));
        carried.push_back(entry.magnitude);
    }
    if (p.quantize_activations) a = quantized(std::move(a));

    const Dense& down = data.down.dense[expert];
    const Products products = multiply(down, a);
    std::vector<double> bias(static_cast<std::size_t>(p.hidden), 0.0);
    if (data.down_bias.view()) bias = row_of(data.down_bias, static_cast<std::int64_t>(expert));
    std::vector<Expected> result;
    for (std::size_t n = 0; n < bias.size(); ++n) {
        double magnitude = std::fabs(bias[n]);
        for (std::size_t i = 0; i < half; ++i)
            magnitude += carried[i] * std::fabs(down.at(static_cast<std::int64_t>(n), static_cast<std::int64_t>(i)));
        result.push_back({products.values[n] + bias[n], products.magnitudes[n], magnitude});
    }
    return result;
}

void add(Expected& total, const Expected& term, double weight) {
    total.value += weight * term.value;
    total.activation_magnitude += std::fabs(weight) * term.activation_magnitude;
    total.sum_magnitude += std::fabs(weight) * term.sum_magnitude;
}

}  // namespace

std::vector<Expected> reference(const FusedMoeData& data, DType intermediate) {
    const FusedMoeProblem& p = data.c.problem;
    std::vector<Expected> out;
    for (std::int64_t token = 0; token < data.c.tokens; ++token) {
        std::vector<Expected> total(static_cast<std::size_t>(p.hidden));
        for (std::int64_t slot = 0; slot < p.top_k; ++slot) {
            const int expert = data.routing.row(token, slot);
            if (expert < 0) continue;
            const double weight = data.routing.weight(token, slot);
            std::vector<double> x = row_of(data.x, token);
            if (p.routing_weight == RoutingWeight::input)
                for (double& value : x) value *= weight;
            if (p.quantize_activations) x = quantized(std::move(x));
            const auto result = apply_expert(data, static_cast<std::size_t>(expert), x, intermediate);
            for (std::size_t n = 0; n < total.size(); ++n)
                add(total[n], result[n], p.routing_weight == RoutingWeight::output ? weight : 1.0);
        }
        if (data.shared_output.view()) {
            const std::vector<double> shared = row_of(data.shared_output, token);
            for (std::size_t n = 0; n < total.size(); ++n) add(total[n], {shared[n], 0, std::fabs(shared[n])}, 1.0);
        }
        out.insert(out.end(), total.begin(), total.end());
    }
    return out;
}

std::vector<Expected> reference(const RoutedGemmData& data) {
    const RoutedGemmProblem& p = data.c.problem;
    std::vector<Expected> out;
    for (std::int64_t token = 0; token < data.c.tokens; ++token) {
        std::vector<Expected> total(static_cast<std::size_t>(p.rows));
        for (std::int64_t slot = 0; slot < p.top_k; ++slot) {
            const int expert = data.routing.row(token, slot);
            if (expert < 0) continue;
            const Products y = multiply(data.matrix.dense[static_cast<std::size_t>(expert)], row_of(data.x, token));
            const double weight = p.apply_routing_weight ? data.routing.weight(token, slot) : 1.0;
            for (std::size_t n = 0; n < total.size(); ++n) add(total[n], {y.values[n], 0, y.magnitudes[n]}, weight);
        }
        out.insert(out.end(), total.begin(), total.end());
    }
    return out;
}

}  // namespace tokamak::moe::test
