// SPDX-License-Identifier: Apache-2.0
// Runs the built command-line tool.
#pragma once

#include <string>
#include <vector>

#include "support/temporary_folder.h"

namespace tokamak::test {

struct ToolResult {
    int status = -1;  ///< exit status; -1 if it ended by a signal
    std::string out;
    std::string error;
};

/// Runs `tokamak` with these arguments and waits for its end.
ToolResult run_tool(const std::vector<std::string>& arguments);

}  // namespace tokamak::test
