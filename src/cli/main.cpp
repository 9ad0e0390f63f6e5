// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cli/commands.h"
#include "core/build_info.h"

namespace {

/// Status of bad usage, bad input and anything else that keeps a command from its work.
constexpr int kRefused = 2;

int run_command_line(int argc, char** argv) {
    CLI::App app{"Hot operators of mixture-of-experts LLM serving: fused MoE and sparse MLA", "tokamak"};
    app.set_version_flag("--version",
                         fmt::format("tokamak {} ({})", tokamak::build_info::version(), tokamak::build_info::commit()));
    app.require_subcommand(1);
    int status = 0;
    tokamak::cli::add_info(app, status);
    tokamak::cli::add_check(app, status);
    tokamak::cli::add_explain(app, status);
    tokamak::cli::add_tune(app, status);
    tokamak::cli::add_bench(app, status);
    tokamak::cli::add_pack(app, status);
    tokamak::cli::add_report(app, status);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
        fmt::print(stderr, "tokamak: {}\nRun with --help for more information.\n", error.what());
        return kRefused;
    }
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run_command_line(argc, argv);
    } catch (const std::exception& error) {
        std::fflush(stdout);
        std::fputs("tokamak: ", stderr);
        std::fputs(error.what(), stderr);
        std::fputs("\n", stderr);
    } catch (...) {
        std::fputs("tokamak: unknown failure\n", stderr);
    }
    return kRefused;
}
