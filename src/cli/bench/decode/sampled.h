// SPDX-License-Identifier: Apache-2.0
// Parts of device data on the host, for comparison.
#pragma once

#include <cstdint>
#include <vector>

#include "tokamak/tensor.h"

namespace tokamak::cli::bench {

/// The tokens of a call that are compared: the first, and the last of 8, 64 and 256.
std::vector<std::int64_t> sampled_tokens(std::int64_t device_tokens);

/// Host copies of some rows of a 2-d tensor; absent if it is.
OwnedTensor rows_to_host(const Tensor& source, const std::vector<std::int64_t>& rows);

}  // namespace tokamak::cli::bench
