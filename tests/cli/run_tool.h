// SPDX-License-Identifier: Apache-2.0
// Runs the built command-line tool.
#pragma once

#include <string>
#include <vector>

namespace tokamak::test {

struct ToolResult {
    int status = -1;  ///< exit status; -1 if it ended by a signal
    std::string out;
    std::string error;
};

/// Runs `tokamak` with these arguments and waits for its end.
ToolResult run_tool(const std::vector<std::string>& arguments);

/// A folder of its own for one test, removed at the end.
class TemporaryFolder {
  public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& text);

}  // namespace tokamak::test
