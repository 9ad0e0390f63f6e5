// SPDX-License-Identifier: Apache-2.0
// Element types written out once more for the tests, and random tensors. Nothing here comes from the library's codecs.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "tokamak/tensor.h"

namespace tokamak::moe::test {

using Rng = std::mt19937_64;

/// Base of all seeds: TOKAMAK_TEST_SEED, or another number in every process. Failures print it.
std::uint64_t base_seed();
/// A generator for one purpose.
inline Rng rng_for(std::uint64_t purpose) { return Rng(base_seed() * 1000003U + purpose); }

double uniform(Rng& rng, double low, double high);
std::int64_t uniform_int(Rng& rng, std::int64_t low, std::int64_t high);  ///< both ends included

/// Element `index` of contiguous memory.
double value_of(const void* data, DType dtype, std::int64_t index);
/// Stores a value, rounded as the type would hold it.
void put(void* data, DType dtype, std::int64_t index, double value);
/// As the type would hold it, rounded to nearest, ties to even.
double rounded(double value, DType dtype);
/// The largest relative error of a rounding.
double unit_roundoff(DType dtype);

/// All elements of a tensor whose rows may be strided.
std::vector<double> values_of(const Tensor& tensor);

/// Contiguous, on the CPU, uniform in [-scale, scale].
OwnedTensor random_tensor(Rng& rng, DType dtype, std::initializer_list<std::int64_t> shape, double scale = 1.0);
/// Contiguous, on the CPU, with given values.
OwnedTensor tensor_of(DType dtype, std::initializer_list<std::int64_t> shape, const std::vector<double>& values);

}  // namespace tokamak::moe::test
