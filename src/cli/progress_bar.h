// SPDX-License-Identifier: Apache-2.0
// A bar with throughput and remaining time on stderr, where that is a terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace tokamak::cli {

/// "1.5 GB", "820 MB", "12 B": decimal units, two significant digits at least.
std::string byte_text(double bytes);
/// "9 s", "3 min 20 s", "2 h 05 min".
std::string duration_text(double seconds);

/// The line of a bar: what is going on, share, throughput and remaining time. `width` columns in all, at least what the
/// text needs.
std::string bar_line(const std::string& what, std::size_t bytes, std::size_t total, double seconds, std::size_t width);

/// The same for steps, which have no size.
std::string step_line(const std::string& what, std::size_t done, std::size_t total, double seconds, std::size_t width);

class ProgressBar {
  public:
    /// Draws only if stderr is a terminal.
    ProgressBar();
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    /// Redraws, at most ten times a second. Another `phase` begins anew.
    void show(const std::string& phase, const std::string& what, std::size_t bytes, std::size_t total);
    void show_steps(const std::string& phase, const std::string& what, std::size_t done, std::size_t total);

  private:
    using Clock = std::chrono::steady_clock;

    using Line = std::string (*)(const std::string&, std::size_t, std::size_t, double, std::size_t);

    void draw(Line line, const std::string& phase, const std::string& what, std::size_t done, std::size_t total);
    void clear();

    bool terminal_;
    bool shown_ = false;
    std::string phase_;
    Clock::time_point begin_;
    Clock::time_point drawn_;
};

}  // namespace tokamak::cli
