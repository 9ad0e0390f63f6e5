// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/report/html.h"
#include "core/throw.h"

namespace tokamak::cli {
namespace {

struct Options {
    std::string results;
    std::string out = "report.html";
};

void write_report(const Options& options) {
    const std::string name = printable(std::filesystem::path(options.results).filename().string());
    const auto document = nlohmann::json::parse(read_text(options.results), nullptr, /*allow_exceptions=*/false);
    if (document.is_discarded()) fail(ErrorCode::parse, "{}: not valid JSON", printable(options.results));
    const report::ResultFile file = report::read_results(document, name);
    std::ofstream out(options.out, std::ios::binary | std::ios::trunc);
    out << report::html_report(file);
    out.flush();
    if (!out) fail(ErrorCode::io, "{}: cannot be written", printable(options.out));
    std::size_t rows = 0;
    for (const report::Group& group : file.groups) rows += group.rows.size();
    fmt::print("{}: {} rows in {} groups\n", printable(options.out), rows, file.groups.size());
}

}  // namespace

void add_report(CLI::App& app, int& status) {
    auto options = std::make_shared<Options>();
    CLI::App* command =
        app.add_subcommand("report", "A benchmark's JSON as a self-contained HTML page with plots, fit for printing");
    command->add_option("RESULT", options->results, "JSON written by bench")->required();
    command->add_option("--out", options->out, "Where the page goes")->capture_default_str();
    command->callback([options, &status] {
        write_report(*options);
        status = 0;
    });
}

}  // namespace tokamak::cli
