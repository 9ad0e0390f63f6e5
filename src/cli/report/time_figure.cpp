// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/report/figure.h"
#include "cli/report/plots.h"

namespace tokamak::cli::report {
namespace {

constexpr double kWidth = 720;
constexpr double kHeight = 380;
constexpr Area kArea = {70, 14, 706, 330};

/// A run of token counts that one variant serves.
struct Span {
    std::string variant;
    double first = 0;
    double last = 0;
};

std::vector<Span> spans(const std::vector<const Row*>& rows) {
    std::vector<Span> all;
    for (const Row* row : rows) {
        if (all.empty() || all.back().variant != row->variant) all.push_back({row->variant, row->tokens, row->tokens});
        all.back().last = row->tokens;
    }
    return all;
}

/// "A" to "Z", then "A2" and so on.
std::string letter(std::size_t index) {
    std::string name(1, static_cast<char>('A' + index % 26));
    return index < 26 ? name : name + std::to_string(index / 26 + 1);
}

std::string variants_caption(const std::vector<Span>& all) {
    std::string caption;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const std::string name = all[i].variant.empty() ? "unnamed variant" : all[i].variant;
        const std::string range =
            all[i].first == all[i].last ? brief(all[i].first) : brief(all[i].first) + " to " + brief(all[i].last);
        caption += fmt::format("{}<b>{}</b> {} ({} tokens)", i == 0 ? "Variants: " : "; ", letter(i), escape(name),
                               escape(range));
    }
    return caption.empty() ? caption : caption + ".";
}

/// What a figure of times shows.
struct Times {
    std::vector<const Row*> automatic;
    std::vector<const Row*> others;    ///< pinned configurations
    std::vector<const Row*> captured;  ///< fewer tokens than the graph was captured for

    Times(const Group& group, const std::string& mode) : automatic(automatic_rows(group, mode)) {
        for (const Row& row : group.rows) {
            if (row.mode != mode) continue;
            if (!row.automatic) others.push_back(&row);
            if (row.automatic && row.captured_larger()) captured.push_back(&row);
        }
    }

    /// Everything that the axes have to cover.
    [[nodiscard]] std::vector<XY> all() const {
        std::vector<XY> points = times(automatic);
        for (const Row* row : others) points.push_back({row->tokens, row->us});
        for (const Row* row : captured) points.push_back({row->device_tokens, row->us});
        for (const auto value : {&Row::floor_us, &Row::must_us, &Row::aim_us, &Row::public_us, &Row::default_us})
            for (const XY& point : series(automatic, value)) points.push_back(point);
        return points;
    }
};

void draw_bands(Plot& plot, const std::vector<Span>& all) {
    if (all.size() < 2) return;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const double from = i == 0 ? plot.x().low() : std::sqrt(all[i - 1].last * all[i].first);
        const double to = i + 1 == all.size() ? plot.x().high() : std::sqrt(all[i].last * all[i + 1].first);
        plot.band(from, to, i % 2 == 1, letter(i));
    }
}

void draw_marks(Plot& plot, std::vector<LegendEntry>& entries, const std::vector<const Row*>& rows,
                std::optional<double> Row::*value, const Style& style, const std::string& name) {
    const std::vector<XY> points = series(rows, value);
    for (const XY& point : points)
        plot.marker(point, style, 4.5, false,
                    fmt::format("{} tokens, {}: {} us", brief(point.x), name, brief(point.y)));
    if (!points.empty()) entries.push_back({name, style, true, false});
}

std::string public_names(const std::vector<const Row*>& rows) {
    std::vector<std::string> names;
    for (const Row* row : rows)
        if (row->public_us && !row->public_name.empty() &&
            std::find(names.begin(), names.end(), row->public_name) == names.end())
            names.push_back(row->public_name);
    std::string text = "best public figure";
    for (std::size_t i = 0; i < names.size(); ++i) text += (i == 0 ? ": " : ", ") + names[i];
    return text;
}

void draw_rows(Plot& plot, std::vector<LegendEntry>& entries, const Times& shown) {
    const Style main = style(0);
    for (const Row* row : shown.others) plot.marker({row->tokens, row->us}, kOtherStyle, 2.2, true, tooltip(*row));
    const std::vector<XY> floor = series(shown.automatic, &Row::floor_us);
    plot.line(floor, kFloorStyle.colour, 1.8, kFloorDash);
    if (floor.size() == 1) plot.marker(floor[0], kFloorStyle, 3, false, "floor");
    plot.line(series(shown.automatic, &Row::default_us), kDefaultStyle.colour, 1.5, kDefaultDash);
    plot.line(times(shown.automatic), main.colour, 2.2);
    if (!shown.automatic.empty()) entries.push_back({"Tokamak", main, true, true, true});
    draw_marks(plot, entries, shown.automatic, &Row::default_us, kDefaultStyle, "default, without tuning");
    draw_marks(plot, entries, shown.automatic, &Row::must_us, kMustStyle, "must");
    draw_marks(plot, entries, shown.automatic, &Row::aim_us, kAimStyle, "aim");
    draw_marks(plot, entries, shown.automatic, &Row::public_us, kPublicStyle, public_names(shown.automatic));
    for (const Row* row : shown.automatic) {
        if (row->p10 && row->p90) plot.whisker(row->tokens, *row->p10, *row->p90, main.colour);
        plot.marker({row->tokens, row->us}, main, 4, true, tooltip(*row));
    }
    for (const Row* row : shown.captured) plot.marker({row->device_tokens, row->us}, main, 4, false, tooltip(*row));
    if (!shown.captured.empty()) entries.push_back({"graph captured for more tokens", main, true, false});
    if (!floor.empty()) entries.push_back({"floor: reading the bytes", kFloorStyle, false, false, true, kFloorDash});
    if (!shown.others.empty()) entries.push_back({"other configurations", kOtherStyle, true});
}

}  // namespace

std::string time_figure(const Group& group) {
    const std::string mode = group.main_mode();
    const Times shown(group, mode);
    const std::vector<XY> points = shown.all();
    if (points.empty()) return {};
    std::vector<double> ys;
    for (const XY& point : points) ys.push_back(point.y);
    const std::vector<double> xs = distinct_x(points);
    Plot plot(kArea, xs, ys);
    const std::vector<Span> all = spans(shown.automatic);
    draw_bands(plot, all);
    plot.axes(xs, "tokens", "microseconds");
    std::vector<LegendEntry> entries;
    draw_rows(plot, entries, shown);
    const std::string title = "Time against tokens: " + group.title();
    const std::string what = fmt::format("{} measured token counts in mode {}, logarithmic axes.", xs.size(),
                                         mode.empty() ? "unknown" : mode);
    const std::string caption =
        fmt::format("Time against tokens{}. {}", mode.empty() ? "" : ", mode " + escape(mode), variants_caption(all));
    return figure(picture(kWidth, kHeight, title, what, plot.body()), entries, caption);
}

}  // namespace tokamak::cli::report
