// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

#include "tokamak/tensor.h"

namespace tokamak::cli::bench {

using Generator = std::mt19937;

/// Normally distributed numbers in host memory; bf16 or f32.
OwnedTensor normal(Generator& generator, DType dtype, std::initializer_list<std::int64_t> shape,
                   float deviation = 1.0F);

/// i32 [tokens, count]: for each token `count` different rows out of `rows`, in random order.
OwnedTensor distinct_rows(Generator& generator, std::int64_t tokens, int count, std::int64_t rows);

/// f64 copy of a tensor in host memory.
OwnedTensor widened(const Tensor& source);

}  // namespace tokamak::cli::bench
