// SPDX-License-Identifier: Apache-2.0
// `tune moe` and `tune mla`.
#pragma once

namespace CLI {
class App;
}

namespace tokamak::cli::tuning {

void add_commands(CLI::App& tune, int& status);
/// `bench tuning`.
void add_bench_command(CLI::App& bench, int& status);

}  // namespace tokamak::cli::tuning
