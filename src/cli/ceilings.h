// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace tokamak::cli {

/// `tokamak info --ceilings`: measures what the GPU of this machine can do at most, prints it, and writes it to
/// `json_path` unless that is empty. Gives the exit status.
int run_ceilings(const std::string& json_path);

}  // namespace tokamak::cli
