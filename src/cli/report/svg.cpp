// SPDX-License-Identifier: Apache-2.0
#include "cli/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace tokamak::cli::report {
namespace {

constexpr std::array<const char*, 7> kColours = {"#0072b2", "#d55e00", "#009e73", "#aa4499",
                                                 "#8a6d00", "#3a9bdc", "#000000"};
constexpr int kMarkers = 5;

std::string polygon(double x, double y, double size, std::initializer_list<XY> corners) {
    std::string points;
    for (const XY& corner : corners)
        points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", x + corner.x * size, y + corner.y * size);
    return fmt::format("<polygon points=\"{}\"", points);
}

std::string shape(double x, double y, int marker, double size) {
    switch (marker) {
        case 1: return polygon(x, y, size, {{-0.9, -0.9}, {0.9, -0.9}, {0.9, 0.9}, {-0.9, 0.9}});
        case 2: return polygon(x, y, size, {{0, -1.15}, {1.1, 0.85}, {-1.1, 0.85}});
        case 3: return polygon(x, y, size, {{0, -1.3}, {1.3, 0}, {0, 1.3}, {-1.3, 0}});
        case 4: return polygon(x, y, size, {{0, 1.15}, {1.1, -0.85}, {-1.1, -0.85}});
        default: return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"", x, y, size);
    }
}

}  // namespace

std::string escape(std::string_view text) {
    std::string safe;
    for (const char c : text) {
        switch (c) {
            case '&': safe += "&amp;"; break;
            case '<': safe += "&lt;"; break;
            case '>': safe += "&gt;"; break;
            case '"': safe += "&quot;"; break;
            case '\'': safe += "&#39;"; break;
            default: safe += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
        }
    }
    return safe;
}

std::string brief(double value) {
    if (value >= 1e7 || value < 1e-3) return fmt::format("{:.3g}", value);
    return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

Style style(std::size_t index) {
    return {kColours[index % kColours.size()], static_cast<int>(index % std::size_t{kMarkers})};
}

LogAxis::LogAxis(const std::vector<double>& values, double from_pixel, double to_pixel)
    : from_(from_pixel), to_(to_pixel) {
    if (values.empty()) return;
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const double room = std::max(1.15, std::pow(*most / *least, 0.05));
    low_ = *least / room;
    high_ = *most * room;
}

double LogAxis::pixel(double value) const {
    const double share = (std::log10(value) - std::log10(low_)) / (std::log10(high_) - std::log10(low_));
    return from_ + share * (to_ - from_);
}

std::vector<double> LogAxis::ticks() const {
    const int first = static_cast<int>(std::floor(std::log10(low_)));
    const int last = static_cast<int>(std::ceil(std::log10(high_)));
    const int step = std::max(1, (last - first) / 8);
    std::vector<double> ticks;
    for (int decade = first; decade <= last; decade += step)
        for (const double digit : {1.0, 2.0, 5.0}) {
            const double value = digit * std::pow(10.0, decade);
            if ((digit == 1.0 || last - first <= 4) && value >= low_ && value <= high_) ticks.push_back(value);
        }
    return ticks;
}

Plot::Plot(Area area, const std::vector<double>& xs, const std::vector<double>& ys)
    : area_(area), x_(xs, area.left, area.right), y_(ys, area.bottom, area.top) {}

void Plot::axes(const std::vector<double>& x_ticks, const std::string& x_name, const std::string& y_name) {
    for (const double tick : y_.ticks()) {
        const double y = y_.pixel(tick);
        body_ += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", area_.left, y, area_.right);
        body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", area_.left - 6, y + 4,
                             brief(tick));
    }
    double free_from = -1e9;
    for (const double tick : x_ticks) {
        const double x = x_.pixel(tick);
        const std::string text = brief(tick);
        const double half = 3.5 * static_cast<double>(text.size()) + 3;
        body_ += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}v4\"/>\n", x, area_.bottom);
        if (x - half < free_from) continue;
        free_from = x + half;
        body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x, area_.bottom + 17,
                             text);
    }
    body_ += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>\n", area_.left, area_.top,
                         area_.bottom, area_.right);
    if (!x_name.empty())
        body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                             0.5 * (area_.left + area_.right), area_.bottom + 36, escape(x_name));
    if (!y_name.empty())
        body_ +=
            fmt::format("<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                        area_.left - 46, 0.5 * (area_.top + area_.bottom), escape(y_name));
}

void Plot::line(const std::vector<XY>& points, const std::string& colour, double width, const std::string& dash) {
    if (points.size() < 2) return;
    std::string path;
    for (const XY& point : points)
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x_.pixel(point.x), y_.pixel(point.y));
    body_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{}/>\n", path, colour, width,
                         dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash));
}

std::string marker_shape(double x, double y, const Style& style, double size, bool filled) {
    return fmt::format("{} fill=\"{}\" stroke=\"{}\" stroke-width=\"1.5\"", shape(x, y, style.marker, size),
                       filled ? style.colour : "#ffffff", style.colour);
}

void Plot::marker(XY point, const Style& style, double size, bool filled, const std::string& tooltip) {
    body_ += marker_shape(x_.pixel(point.x), y_.pixel(point.y), style, size, filled);
    body_ += fmt::format("><title>{}</title></{}>\n", escape(tooltip), style.marker == 0 ? "circle" : "polygon");
}

void Plot::whisker(double x, double low, double high, const std::string& colour) {
    body_ += fmt::format("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\" stroke-width=\"1\"/>\n", x_.pixel(x),
                         y_.pixel(low), y_.pixel(high), colour);
}

void Plot::band(double from, double to, bool shaded, const std::string& letter) {
    const double left = std::max(area_.left, x_.pixel(from));
    const double right = std::min(area_.right, x_.pixel(to));
    if (shaded)
        body_ += fmt::format("<rect class=\"band\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                             left, area_.top, right - left, area_.bottom - area_.top);
    body_ += fmt::format("<text class=\"letter\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                         0.5 * (left + right), area_.top + 14, escape(letter));
}

void Plot::label(XY point, double dx, double dy, const std::string& text, const std::string& anchor) {
    body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x_.pixel(point.x) + dx,
                         y_.pixel(point.y) + dy, anchor, escape(text));
}

std::string picture(double width, double height, const std::string& title, const std::string& description,
                    const std::string& body) {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
        "aria-label=\"{2}\">\n<title>{2}</title>\n<desc>{3}</desc>\n{4}</svg>\n",
        width, height, escape(title), escape(description), body);
}

}  // namespace tokamak::cli::report
