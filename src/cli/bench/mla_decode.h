// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/bench/report.h"
#include "cli/shapes.h"

namespace tokamak::cli::bench {

/// Sparse MLA decode of one model shape: fills a cache several times as large as what a token selects with write_kv,
/// and attends to random selections out of it.
void run_mla_decode(Report& report, const MlaShape& shape, KvFormat format);

}  // namespace tokamak::cli::bench
