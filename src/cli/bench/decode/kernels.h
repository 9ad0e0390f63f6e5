// SPDX-License-Identifier: Apache-2.0
// Kernels of the benchmarks: random data made where it is needed, and stand-ins for what the library does not do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cli/bench/decode/clocks.h"
#include "tokamak/device.h"
#include "tokamak/weight_format.h"

namespace tokamak::cli::bench {

/// Random packed matrices of a layout, `bytes` of them back to back: every code, moderate scales, weights of about
/// 2^-6.
void fill_packed(void* data, std::size_t bytes, const PackedLayout& layout, std::uint32_t seed, Stream stream);

/// Normally distributed bf16.
void fill_normal(void* data, std::size_t elements, std::uint32_t seed, Stream stream);

/// Numbers in [0, bound), and in [first, first + count).
void fill_uniform(std::int32_t* data, std::size_t count, std::int32_t bound, std::uint32_t seed, Stream stream);
void fill_ascending(std::int32_t* data, std::size_t count, std::int32_t first, Stream stream);

/// A stand-in for a combine by atomic additions: adds `routes` rows of bf16 partial results, top_k a token, to f32
/// accumulators.
void add_atomically(float* accumulators, const void* partials, std::int64_t tokens, int top_k, std::int64_t hidden,
                    Stream stream);
/// What a deterministic combine does instead: overwrites bf16 `out` with the sum over a token's rows.
void sum_rows(void* out, const void* partials, std::int64_t tokens, int top_k, std::int64_t hidden, Stream stream);
/// Rounds the accumulators of live rows to bf16 `out`.
void round_rows(void* out, const float* accumulators, std::int64_t tokens, std::int64_t hidden, Stream stream);

/// Writes kClockStamps stamps, each by a block of its own.
inline constexpr int kClockStamps = 132;
void stamp_clocks(ClockStamp* stamps, Stream stream);

/// A kernel that does nothing: what launching by itself costs the host.
void launch_empty(Stream stream);

}  // namespace tokamak::cli::bench
