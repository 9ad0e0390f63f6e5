// SPDX-License-Identifier: Apache-2.0
// Element-wise access to host tensors of any stride.
#pragma once

#include <random>
#include <vector>

#include "formats/scalar.h"
#include "mla/naive.h"
#include "tokamak/tensor.h"

namespace tokamak::test {

inline std::int64_t offset_of(const Tensor& tensor, std::int64_t i, std::int64_t j = 0, std::int64_t k = 0) {
    return i * tensor.strides[0] + j * tensor.strides[1] + k * tensor.strides[2];
}

inline double element_at(const Tensor& tensor, std::int64_t i, std::int64_t j = 0, std::int64_t k = 0) {
    return naive::element(tensor, offset_of(tensor, i, j, k));
}

/// Rounds to a bf16, f16 or f32 element.
inline void set_element(const Tensor& tensor, std::int64_t offset, double value) {
    const auto narrow = static_cast<float>(value);
    switch (tensor.dtype) {
        case DType::bf16: tensor.as<std::uint16_t>()[offset] = scalar::float_to_bf16(narrow); return;
        case DType::f16: tensor.as<std::uint16_t>()[offset] = scalar::float_to_f16(narrow); return;
        default: tensor.as<float>()[offset] = narrow; return;
    }
}

/// Calls visit(i, j, k) for every element of a tensor of rank 1 to 3.
template <class Visit>
void for_each_index(const Tensor& tensor, const Visit& visit) {
    const std::int64_t columns = tensor.rank > 1 ? tensor.shape[1] : 1;
    const std::int64_t depth = tensor.rank > 2 ? tensor.shape[2] : 1;
    for (std::int64_t i = 0; i < tensor.shape[0]; ++i)
        for (std::int64_t j = 0; j < columns; ++j)
            for (std::int64_t k = 0; k < depth; ++k) visit(i, j, k);
}

inline void fill_uniform(const Tensor& tensor, std::mt19937& random, double low, double high) {
    std::uniform_real_distribution<double> distribution(low, high);
    for_each_index(
        tensor, [&](auto i, auto j, auto k) { set_element(tensor, offset_of(tensor, i, j, k), distribution(random)); });
}

/// The elements' bytes, packed.
inline std::vector<std::byte> copy_of(const Tensor& tensor) {
    std::vector<std::byte> bytes;
    const std::size_t width = size_of(tensor.dtype);
    for_each_index(tensor, [&](auto i, auto j, auto k) {
        const std::byte* const element =
            tensor.as<std::byte>() + static_cast<std::size_t>(offset_of(tensor, i, j, k)) * width;
        bytes.insert(bytes.end(), element, element + width);
    });
    return bytes;
}

}  // namespace tokamak::test
