// SPDX-License-Identifier: Apache-2.0
// Runs one case and says how it went.
#pragma once

#include <string>

#include "cli/conformance/compare.h"
#include "cli/conformance/manifest.h"
#include "tokamak/device.h"

namespace tokamak::cli::conformance {

enum class Outcome { pass, fail, skip, differs };
const char* to_string(Outcome outcome) noexcept;

struct Verdict {
    Outcome outcome = Outcome::pass;
    std::string reason;  ///< why it was skipped or failed without a comparison
    Worst worst;         ///< over all outputs
    std::string where;   ///< "out[3, 17]", with how it was computed or judged; empty without a comparison
};

/// Never throws because of what the case holds.
Verdict judge(const Case& the_case, const std::string& folder, Device device, bool strict);

}  // namespace tokamak::cli::conformance
