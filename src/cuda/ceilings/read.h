// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/graph.h"

namespace tokamak::ceilings {

/// Microseconds of one pass of the reference reader over `bytes` of device memory: the read ceiling to compare a kernel
/// with in its own process. Synchronises.
float time_read(const std::uint8_t* data, std::size_t bytes, const cuda::OwnedStream& stream);

}  // namespace tokamak::ceilings
