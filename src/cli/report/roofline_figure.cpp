// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "cli/report/figure.h"
#include "cli/report/plots.h"

namespace tokamak::cli::report {
namespace {

constexpr double kWidth = 720;
constexpr double kHeight = 400;
constexpr std::size_t kMostNumbered = 4;  ///< lines whose token counts can be told apart
constexpr Area kArea = {70, 14, 706, 350};

/// FLOPs per byte and TFLOP/s of the rows that count both.
struct Work {
    const Group* group = nullptr;
    std::vector<XY> points;
    std::vector<const Row*> rows;
};

Work work_of(const Group& group) {
    Work work{.group = &group};
    for (const Row* row : automatic_rows(group, group.main_mode())) {
        if (!row->bytes || !row->flops) continue;
        work.points.push_back({*row->flops / *row->bytes, *row->flops / row->us * 1e-6});
        work.rows.push_back(row);
    }
    return work;
}

/// The sloped and the level part of a roof, as far as the axes go.
void draw_roof(Plot& plot, double read_gbps, double tflops, const std::string& name, const std::string& dash) {
    const double ridge = tflops / read_gbps * 1e3;
    const double from = plot.x().low();
    const double to = plot.x().high();
    std::vector<XY> roof = {{from, from * read_gbps * 1e-3}};
    if (ridge > from && ridge < to) roof.push_back({ridge, tflops});
    roof.push_back({to, std::min(tflops, to * read_gbps * 1e-3)});
    if (ridge <= from) roof.front().y = tflops;
    plot.line(roof, "#555555", 1.8, dash);
    if (ridge < to) plot.label({to, tflops}, -4, 14, name, "end");
}

/// `numbered`: with the token counts at the ends of the line.
void draw_work(Plot& plot, const Work& work, const Style& look, bool numbered) {
    plot.line(work.points, look.colour, 1);
    for (std::size_t i = 0; i < work.points.size(); ++i)
        plot.marker(work.points[i], look, 4, true, work.group->title() + ", " + tooltip(*work.rows[i]));
    if (!numbered) return;
    plot.label(work.points.front(), -7, 4, brief(work.rows.front()->tokens), "end");
    if (work.points.size() > 1) plot.label(work.points.back(), 7, 4, brief(work.rows.back()->tokens), "start");
}

}  // namespace

std::string roofline_figure(const ResultFile& file, const std::string& op) {
    std::vector<Work> all;
    std::vector<double> xs;
    std::vector<double> ys;
    for (const Group& group : file.groups) {
        if (group.op != op) continue;
        Work work = work_of(group);
        for (const XY& point : work.points) {
            xs.push_back(point.x);
            ys.push_back(point.y);
        }
        if (!work.points.empty()) all.push_back(std::move(work));
    }
    if (all.empty()) return {};
    const double highest = std::max(file.bf16_tflops.value_or(0), file.fp8_tflops.value_or(0));
    if (highest > 0) ys.push_back(highest);
    if (file.read_gbps && highest > 0) xs.push_back(highest / *file.read_gbps * 3e3);  // shows some of the level part
    Plot plot(kArea, xs, ys);
    plot.axes(plot.x().ticks(), "FLOP per byte that has to move", "TFLOP/s");
    if (file.read_gbps && file.fp8_tflops) draw_roof(plot, *file.read_gbps, *file.fp8_tflops, "fp8, sustained", "2 3");
    if (file.read_gbps && file.bf16_tflops) draw_roof(plot, *file.read_gbps, *file.bf16_tflops, "bf16, sustained", "");
    std::vector<LegendEntry> entries;
    const bool numbered = all.size() <= kMostNumbered;
    for (std::size_t i = 0; i < all.size(); ++i) {
        draw_work(plot, all[i], style(i), numbered);
        entries.push_back({all[i].group->name(), style(i), true, true, true});
    }
    const std::string roofs = file.read_gbps ? "below the measured ceilings" : "no ceilings were measured";
    return figure(
        picture(kWidth, kHeight, "Roofline of " + op, "FLOP per byte against TFLOP/s, logarithmic axes.", plot.body()),
        entries,
        fmt::format("Roofline, {}; the numbers at the ends of a line are its least and its most tokens.", roofs));
}

}  // namespace tokamak::cli::report
