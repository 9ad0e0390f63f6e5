// SPDX-License-Identifier: Apache-2.0
// The commands. Each registers itself below the application; when it was given, it stores its exit status: 0, or 1 if
// something that it checked failed. A command that cannot do its work throws; main prints that and exits with 2.
#pragma once

namespace CLI {
class App;
}

namespace tokamak::cli {

void add_info(CLI::App& app, int& status);
void add_check(CLI::App& app, int& status);
void add_explain(CLI::App& app, int& status);
void add_tune(CLI::App& app, int& status);
void add_bench(CLI::App& app, int& status);
void add_pack(CLI::App& app, int& status);
void add_report(CLI::App& app, int& status);

}  // namespace tokamak::cli
