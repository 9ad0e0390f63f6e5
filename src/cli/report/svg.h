// SPDX-License-Identifier: Apache-2.0
// Pieces of SVG: escaped text, markers, and a frame with two logarithmic axes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tokamak::cli::report {

/// Fit for text and attributes of HTML and SVG: the five special characters escaped, control characters replaced.
std::string escape(std::string_view text);

/// At most three significant digits for small numbers, none behind the point for large ones: "0.012", "7.46", "18432".
std::string brief(double value);

/// Okabe and Ito's colours (distinct to the colour-blind, and as greys) with a marker each; any index.
struct Style {
    std::string colour;
    int marker = 0;
};
Style style(std::size_t index);

/// A logarithmic axis that covers values with a little room at both ends.
class LogAxis {
  public:
    /// `values` above zero; none at all gives 1 to 10.
    LogAxis(const std::vector<double>& values, double from_pixel, double to_pixel);
    [[nodiscard]] double pixel(double value) const;
    [[nodiscard]] double low() const noexcept { return low_; }
    [[nodiscard]] double high() const noexcept { return high_; }
    /// 1, 2 and 5 of each decade, or whole decades if that would be many.
    [[nodiscard]] std::vector<double> ticks() const;

  private:
    double low_ = 1;
    double high_ = 10;
    double from_ = 0;
    double to_ = 1;
};

struct XY {
    double x = 0;
    double y = 0;
};

/// Where a plot lies in its picture.
struct Area {
    double left = 0;
    double top = 0;
    double right = 0;
    double bottom = 0;
};

/// A plot with logarithmic axes under construction.
class Plot {
  public:
    Plot(Area area, const std::vector<double>& xs, const std::vector<double>& ys);

    /// Frame, grid and numbers; x ticks at the given values, leaving out those that would overlap. Names may be empty.
    void axes(const std::vector<double>& x_ticks, const std::string& x_name, const std::string& y_name);
    void line(const std::vector<XY>& points, const std::string& colour, double width, const std::string& dash = {});
    /// `tooltip` is plain text, shown where the pointer rests.
    void marker(XY point, const Style& style, double size, bool filled, const std::string& tooltip);
    /// A vertical bar from one value to another: the spread of a time.
    void whisker(double x, double low, double high, const std::string& colour);
    /// A light band between two x values, over the whole height, with a letter at its top.
    void band(double from, double to, bool shaded, const std::string& letter);
    void label(XY point, double dx, double dy, const std::string& text, const std::string& anchor);

    [[nodiscard]] const LogAxis& x() const noexcept { return x_; }
    [[nodiscard]] const LogAxis& y() const noexcept { return y_; }
    [[nodiscard]] const std::string& body() const noexcept { return body_; }

  private:
    Area area_;
    LogAxis x_;
    LogAxis y_;
    std::string body_;
};

/// A marker of a legend, by itself.
std::string marker_shape(double x, double y, const Style& style, double size, bool filled);

/// A picture of that size; `title` and `description` are read to who cannot see it.
std::string picture(double width, double height, const std::string& title, const std::string& description,
                    const std::string& body);

}  // namespace tokamak::cli::report
