// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "cli/report/figure.h"
#include "cli/report/plots.h"

namespace tokamak::cli::report {
namespace {

constexpr double kPanel = 236;  ///< width of a mode
constexpr double kLeft = 56;
constexpr double kTop = 30;
constexpr double kBottom = 220;
constexpr double kHeight = 268;

std::string explanation(const std::string& mode) {
    if (mode == "owning") return "owning: the call allocates";
    if (mode == "workspace") return "workspace: the caller's buffers";
    return mode == "graph" ? "graph: captured and replayed" : mode;
}

}  // namespace

std::string modes_figure(const Group& group) {
    const std::vector<std::string> modes = group.modes();
    if (modes.size() < 2) return {};
    std::vector<XY> points;
    std::vector<double> ys;
    for (const std::string& mode : modes) {
        const auto rows = automatic_rows(group, mode);
        for (const XY& point : times(rows)) points.push_back(point);
        for (const XY& point : series(rows, &Row::floor_us)) points.push_back(point);
    }
    if (points.empty()) return {};
    for (const XY& point : points) ys.push_back(point.y);
    const std::vector<double> xs = distinct_x(points);
    std::string body;
    for (std::size_t i = 0; i < modes.size(); ++i) {
        const double left = kLeft + static_cast<double>(i) * kPanel;
        Plot plot({left, kTop, left + kPanel - 50, kBottom}, xs, ys);
        plot.axes(xs, "tokens", i == 0 ? "microseconds" : "");
        const auto rows = automatic_rows(group, modes[i]);
        plot.line(series(rows, &Row::floor_us), kFloorStyle.colour, 1.5, kFloorDash);
        plot.line(times(rows), style(i).colour, 2);
        for (const Row* row : rows) plot.marker({row->tokens, row->us}, style(i), 3.2, true, tooltip(*row));
        body += fmt::format("<text class=\"letter\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", left, kTop - 12,
                            escape(explanation(modes[i])));
        body += plot.body();
    }
    const double width = kLeft + static_cast<double>(modes.size()) * kPanel - 22;
    std::vector<LegendEntry> entries;
    for (std::size_t i = 0; i < modes.size(); ++i)
        entries.push_back({modes[i].empty() ? "unnamed mode" : modes[i], style(i), true, true, true});
    entries.push_back({"floor", kFloorStyle, false, false, true, kFloorDash});
    return figure(picture(width, kHeight, "Modes side by side: " + group.title(),
                          "The same axes for each mode; both logarithmic.", body),
                  entries, "The same calls in each mode, same axes.");
}

}  // namespace tokamak::cli::report
