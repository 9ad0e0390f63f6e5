// SPDX-License-Identifier: Apache-2.0
// `bench moe` and `bench mla`: their options, and the benchmarks behind them.
#pragma once

#include "cli/bench/decode/options.h"

namespace CLI {
class App;
}

namespace tokamak::cli::bench {

/// Adds the two commands below `bench`.
void add_decode_commands(CLI::App& bench, int& status);

/// Exit status: 1 if a result was wrong. Throw `unsupported` where there is no Hopper GPU.
int bench_moe(const DecodeOptions& options);
int bench_moe_prefill(const DecodeOptions& options);
int bench_mla(const DecodeOptions& options);

}  // namespace tokamak::cli::bench
