// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/random_tensor.h"

#include <numeric>
#include <utility>
#include <vector>

#include "cli/conformance/compare.h"
#include "core/throw.h"

namespace tokamak::cli::bench {

OwnedTensor normal(Generator& generator, DType dtype, std::initializer_list<std::int64_t> shape, float deviation) {
    OwnedTensor tensor = OwnedTensor::allocate(dtype, shape);
    std::normal_distribution<float> distribution(0.0F, deviation);
    for (std::int64_t i = 0; i < tensor.view().elements(); ++i)
        conformance::set_element(tensor, i, distribution(generator));
    return tensor;
}

OwnedTensor distinct_rows(Generator& generator, std::int64_t tokens, int count, std::int64_t rows) {
    if (count > rows) invalid("bench: {} different rows out of {}", count, rows);
    OwnedTensor chosen = OwnedTensor::allocate(DType::i32, {tokens, count});
    std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t j = 0; j < count; ++j) {
            const auto other = std::uniform_int_distribution<std::int64_t>(j, rows - 1)(generator);
            std::swap(order[static_cast<std::size_t>(j)], order[static_cast<std::size_t>(other)]);
            chosen.as<std::int32_t>()[t * count + j] = order[static_cast<std::size_t>(j)];
        }
    }
    return chosen;
}

OwnedTensor widened(const Tensor& source) {
    OwnedTensor wide = OwnedTensor::allocate(DType::f64, {source.elements()});
    for (std::int64_t i = 0; i < source.elements(); ++i) wide.as<double>()[i] = conformance::element(source, i);
    return wide;
}

}  // namespace tokamak::cli::bench
