// SPDX-License-Identifier: Apache-2.0
// What the figures share: legends, captions, series of rows.
#pragma once

#include <string>
#include <vector>

#include "cli/report/result_file.h"
#include "cli/report/svg.h"

namespace tokamak::cli::report {

/// An entry of a legend: a marker, a line, or both.
struct LegendEntry {
    std::string text;
    Style style;
    bool marker = false;
    bool filled = true;
    bool line = false;
    std::string dash{};
};

std::string legend(const std::vector<LegendEntry>& entries);
std::string figure(const std::string& picture, const std::vector<LegendEntry>& entries, const std::string& caption);

/// The rows of a mode that a user gets, ascending in tokens; without those of graphs captured for more.
std::vector<const Row*> automatic_rows(const Group& group, const std::string& mode);

/// One value of each row that has it.
std::vector<XY> series(const std::vector<const Row*>& rows, std::optional<double> Row::*value);
std::vector<XY> times(const std::vector<const Row*>& rows);

/// Values of x, ascending, each once.
std::vector<double> distinct_x(std::vector<XY> points);

/// "64 tokens, graph: 240.1 us (239 to 241), decode_x, 93 % of the floor".
std::string tooltip(const Row& row);

inline const Style kFloorStyle = {"#555555", 0};
inline const Style kPublicStyle = {"#d55e00", 3};
inline const Style kMustStyle = {"#009e73", 4};
inline const Style kAimStyle = {"#009e73", 2};
inline const Style kDefaultStyle = {"#aa4499", 1};
inline const Style kOtherStyle = {"#9a9a9a", 0};
inline constexpr const char* kFloorDash = "6 4";
inline constexpr const char* kDefaultDash = "2 3";

}  // namespace tokamak::cli::report
