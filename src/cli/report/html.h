// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "cli/report/result_file.h"

namespace tokamak::cli::report {

/// The whole page: one file without links to anything outside. The same results give the same bytes.
std::string html_report(const ResultFile& file);

}  // namespace tokamak::cli::report
