// SPDX-License-Identifier: Apache-2.0
// Random data in the memory of any device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tokamak/device.h"
#include "tokamak/weight_format.h"

namespace tokamak::cli::bench {

/// Where data is made, and in what order.
struct Lane {
    Device device;
    Stream stream;
};

/// Random packed matrices of a layout, `bytes` of them back to back: every code, moderate scales, weights of about
/// 2^-6. Not nvfp4.
void fill_packed(const Lane& lane, void* data, std::size_t bytes, const PackedLayout& layout, std::uint32_t seed);

/// Normally distributed bf16, an even number.
void fill_normal(const Lane& lane, void* data, std::size_t elements, std::uint32_t seed);

/// Numbers in [0, bound), and in [first, first + count).
void fill_uniform(const Lane& lane, std::int32_t* data, std::size_t count, std::int32_t bound, std::uint32_t seed);
void fill_ascending(const Lane& lane, std::int32_t* data, std::size_t count, std::int32_t first);

}  // namespace tokamak::cli::bench
