// SPDX-License-Identifier: Apache-2.0
// The parts of `bench mla`.
#pragma once

#include "cli/bench/decode/bench.h"
#include "cli/bench/decode/mla_data.h"

namespace tokamak::cli::bench {

/// write_kv and paged_gather in the formats and widths of the cases, merge_state for their heads.
void bench_row_operators(DecodeBench& bench, const std::vector<MlaCase>& cases);

}  // namespace tokamak::cli::bench
