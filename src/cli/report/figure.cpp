// SPDX-License-Identifier: Apache-2.0
#include "cli/report/figure.h"

#include <fmt/format.h>

#include <algorithm>

namespace tokamak::cli::report {

std::string legend(const std::vector<LegendEntry>& entries) {
    std::string html = "<ul class=\"legend\">\n";
    for (const LegendEntry& entry : entries) {
        std::string key;
        if (entry.line)
            key += fmt::format("<path d=\"M1 8H27\" stroke=\"{}\" stroke-width=\"2\"{}/>", entry.style.colour,
                               entry.dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", entry.dash));
        if (entry.marker) key += marker_shape(14, 8, entry.style, 4.5, entry.filled) + "/>";
        html += fmt::format("<li><svg width=\"28\" height=\"16\" aria-hidden=\"true\">{}</svg>{}</li>\n", key,
                            escape(entry.text));
    }
    return html + "</ul>\n";
}

std::string figure(const std::string& picture, const std::vector<LegendEntry>& entries, const std::string& caption) {
    return "<figure>\n" + picture + legend(entries) + "<figcaption>" + caption + "</figcaption>\n</figure>\n";
}

std::vector<const Row*> automatic_rows(const Group& group, const std::string& mode) {
    std::vector<const Row*> rows;
    for (const Row& row : group.rows)
        if (row.automatic && row.mode == mode && !row.captured_larger()) rows.push_back(&row);
    return rows;
}

std::vector<XY> series(const std::vector<const Row*>& rows, std::optional<double> Row::*value) {
    std::vector<XY> points;
    for (const Row* row : rows)
        if (row->*value) points.push_back({row->tokens, *(row->*value)});
    return points;
}

std::vector<XY> times(const std::vector<const Row*>& rows) {
    std::vector<XY> points;
    for (const Row* row : rows) points.push_back({row->tokens, row->us});
    return points;
}

std::vector<double> distinct_x(std::vector<XY> points) {
    std::vector<double> xs;
    for (const XY& point : points) xs.push_back(point.x);
    std::sort(xs.begin(), xs.end());
    xs.erase(std::unique(xs.begin(), xs.end()), xs.end());
    return xs;
}

std::string tooltip(const Row& row) {
    std::string text = fmt::format("{} tokens", brief(row.device_tokens));
    if (row.captured_larger()) text += fmt::format(" in a graph captured for {}", brief(row.tokens));
    if (!row.mode.empty()) text += ", " + row.mode;
    text += fmt::format(": {} us", brief(row.us));
    if (row.p10 && row.p90) text += fmt::format(" ({} to {})", brief(*row.p10), brief(*row.p90));
    if (!row.variant.empty()) text += ", " + row.variant;
    if (const auto share = row.floor_share()) text += fmt::format(", floor / time {:.0f} %", *share * 100);
    return text;
}

}  // namespace tokamak::cli::report
