// SPDX-License-Identifier: Apache-2.0
// The report's figures: SVG pictures of a group of rows, each with its legend and caption, as HTML.
#pragma once

#include <string>

#include "cli/report/result_file.h"

namespace tokamak::cli::report {

/// Time against tokens in the main mode: what a user gets, the other configurations, floor, goals, best public figure,
/// and where the variant changes.
std::string time_figure(const Group& group);

/// The modes side by side on the same axes; empty for a group that has only one.
std::string modes_figure(const Group& group);

/// Work per second against work per byte for all groups of an operator, below the file's ceilings; empty if no row
/// counts bytes and FLOPs.
std::string roofline_figure(const ResultFile& file, const std::string& op);

}  // namespace tokamak::cli::report
