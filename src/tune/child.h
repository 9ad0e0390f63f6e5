// SPDX-License-Identifier: Apache-2.0
// A process of its own for what may crash or hang: a candidate's first contact.
#pragma once

#include <string>
#include <vector>

namespace tokamak::tune {

struct ChildResult {
    int status = -1;  ///< exit status, if it ended by itself
    int signal = 0;   ///< that ended it
    bool timed_out = false;
    std::string output;  ///< the end of what it wrote to stdout and stderr, at most 4 KB

    [[nodiscard]] bool ok() const noexcept { return status == 0 && signal == 0 && !timed_out; }
    /// "hung: killed after 5.0 s", "crashed: signal 11 (Segmentation fault)", "exit status 3: last line"; empty if ok.
    [[nodiscard]] std::string failure() const;
    double seconds = 0;  ///< that it ran
};

/// Runs a program (a path, no shell) and waits for its end; after `seconds` it is killed with all that it started.
/// Threads may call this at the same time. Throws `io` if it cannot be started.
ChildResult run_child(const std::vector<std::string>& arguments, double seconds);

}  // namespace tokamak::tune
