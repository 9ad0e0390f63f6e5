// SPDX-License-Identifier: Apache-2.0
#include "cli/table.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace tokamak::cli {

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)), terminal_(isatty(STDERR_FILENO) == 1) {}

void Table::clear_progress() {
    if (progress_shown_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    progress_shown_ = false;
}

void Table::print_cells(const std::vector<std::string>& cells) const {
    std::string line;
    for (std::size_t i = 0; i < cells.size() && i < columns_.size(); ++i) {
        const Column& column = columns_[i];
        if (i > 0) line += "  ";
        line +=
            column.left ? fmt::format("{:<{}}", cells[i], column.width) : fmt::format("{:>{}}", cells[i], column.width);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
    std::fflush(stdout);
}

void Table::row(const std::vector<std::string>& cells) {
    clear_progress();
    if (!titled_) {
        std::vector<std::string> titles;
        for (const Column& column : columns_) titles.push_back(column.title);
        print_cells(titles);
        titled_ = true;
    }
    print_cells(cells);
}

void Table::note(const std::string& text) {
    clear_progress();
    fmt::print("{}\n", text);
    std::fflush(stdout);
}

void Table::progress(const std::string& text) {
    if (terminal_) {
        fmt::print(stderr, "\r\033[K{}", text);
        progress_shown_ = true;
    } else {
        fmt::print(stderr, "{}\n", text);
    }
    std::fflush(stderr);
}

}  // namespace tokamak::cli
