// SPDX-License-Identifier: Apache-2.0
// Without the CUDA toolkit no device memory exists that these could fill.
#include "cli/bench/decode/kernels.h"
#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

[[noreturn]] void absent() { fail(ErrorCode::unsupported, "bench: Tokamak was built without CUDA"); }

}  // namespace

void fill_packed(void*, std::size_t, const PackedLayout&, std::uint32_t, Stream) { absent(); }
void fill_normal(void*, std::size_t, std::uint32_t, Stream) { absent(); }
void fill_uniform(std::int32_t*, std::size_t, std::int32_t, std::uint32_t, Stream) { absent(); }
void fill_ascending(std::int32_t*, std::size_t, std::int32_t, Stream) { absent(); }
void stamp_clocks(ClockStamp*, Stream) { absent(); }

}  // namespace tokamak::cli::bench
