// SPDX-License-Identifier: Apache-2.0
// A table that grows line by line on stdout, and progress on stderr: one line that is rewritten on a terminal, plain
// lines elsewhere.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tokamak::cli {

struct Column {
    std::string title;
    std::size_t width = 0;
    bool left = false;
};

class Table {
  public:
    explicit Table(std::vector<Column> columns);

    /// Prints the titles before the first row.
    void row(const std::vector<std::string>& cells);
    /// A line across the table.
    void note(const std::string& text);
    /// What is going on right now.
    void progress(const std::string& text);

  private:
    void clear_progress();
    void print_cells(const std::vector<std::string>& cells) const;

    std::vector<Column> columns_;
    bool terminal_ = false;
    bool titled_ = false;
    bool progress_shown_ = false;
};

}  // namespace tokamak::cli
