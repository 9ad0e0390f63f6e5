// SPDX-License-Identifier: Apache-2.0
#include "cli/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace tokamak::cli {
namespace {

std::size_t terminal_width() {
    winsize size{};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

double share_of(std::size_t done, std::size_t total) {
    return total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
}

std::string with_bar(const std::string& what, double share, const std::string& text, std::size_t width) {
    const std::size_t taken = what.size() + text.size() + 3;
    const std::size_t cells = std::clamp<std::size_t>(width > taken + 1 ? width - taken - 1 : 0, 0, 40);
    if (cells < 8) return what + text;
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(cells));
    return what + " [" + std::string(filled, '#') + std::string(cells - filled, '.') + "]" + text;
}

}  // namespace

std::string byte_text(double bytes) {
    constexpr std::array<const char*, 5> units = {"B", "kB", "MB", "GB", "TB"};
    std::size_t unit = 0;
    for (; bytes >= 999.5 && unit + 1 < units.size(); ++unit) bytes /= 1000;
    return unit > 0 && bytes < 9.95 ? fmt::format("{:.1f} {}", bytes, units[unit])
                                    : fmt::format("{:.0f} {}", bytes, units[unit]);
}

std::string duration_text(double seconds) {
    const auto whole = static_cast<std::int64_t>(std::ceil(std::max(seconds, 0.0)));
    if (whole < 60) return fmt::format("{} s", whole);
    if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
    return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string bar_line(const std::string& what, std::size_t bytes, std::size_t total, double seconds, std::size_t width) {
    const double share = share_of(bytes, total);
    const double rate = seconds > 0 ? static_cast<double>(bytes) / seconds : 0.0;
    std::string text = fmt::format(" {:3.0f}%  {} of {}", std::floor(100 * share),
                                   byte_text(static_cast<double>(bytes)), byte_text(static_cast<double>(total)));
    if (rate > 0)
        text += fmt::format("  {}/s  {} left", byte_text(rate),
                            duration_text(static_cast<double>(total - std::min(bytes, total)) / rate));
    return with_bar(what, share, text, width);
}

std::string step_line(const std::string& what, std::size_t done, std::size_t total, double seconds, std::size_t width) {
    const double share = share_of(done, total);
    std::string text = fmt::format(" {:3.0f}%", std::floor(100 * share));
    if (share > 0) text += fmt::format("  {} left", duration_text(seconds / share - seconds));
    return with_bar(what, share, text, width);
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    shown_ = false;
}

void ProgressBar::show(const std::string& phase, const std::string& what, std::size_t bytes, std::size_t total) {
    draw(bar_line, phase, what, bytes, total);
}

void ProgressBar::show_steps(const std::string& phase, const std::string& what, std::size_t done, std::size_t total) {
    draw(step_line, phase, what, done, total);
}

void ProgressBar::draw(Line line, const std::string& phase, const std::string& what, std::size_t done,
                       std::size_t total) {
    if (!terminal_) return;
    const auto now = Clock::now();
    if (phase != phase_) {
        phase_ = phase;
        begin_ = now;
    } else if (done < total && now - drawn_ < std::chrono::milliseconds(100)) {
        return;
    }
    drawn_ = now;
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    fmt::print(stderr, "\r\033[K{}", line(phase + what, done, total, seconds, terminal_width()));
    std::fflush(stderr);
    shown_ = true;
}

}  // namespace tokamak::cli
