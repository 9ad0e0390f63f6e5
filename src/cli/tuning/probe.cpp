// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/probe.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "cli/common.h"
#include "core/throw.h"
#include "tune/child.h"

namespace tokamak::cli::tuning {
namespace {

constexpr int kHungStatus = 124;
constexpr const char* kBegin = "begin ";
constexpr const char* kEnd = "end ";    // the reason follows on the same line, behind a tab
constexpr const char* kSlow = "slow ";  // the token count follows in the same way

std::string one_line(std::string text) {
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c == '\n' || c == '\t' || c == '\r'; }, ' ');
    return text;
}

/// Ends the process if a step takes too long: a kernel that hangs cannot be stopped otherwise.
class Watchdog {
  public:
    explicit Watchdog(double seconds) : seconds_(seconds), thread_([this] { watch(); }) {}
    ~Watchdog() {
        {
            const std::lock_guard lock(mutex_);
            done_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;
    /// From now on a step is awaited, or none.
    void watch_steps(bool active) {
        const std::lock_guard lock(mutex_);
        active_ = active;
        ++steps_;
    }
    void step() {
        const std::lock_guard lock(mutex_);
        ++steps_;
    }

  private:
    void watch() {
        std::unique_lock lock(mutex_);
        for (;;) {
            const int before = steps_;
            const bool ended = changed_.wait_for(lock, std::chrono::duration<double>(seconds_), [&] { return done_; });
            if (ended) return;
            if (active_ && steps_ == before) _exit(kHungStatus);
        }
    }

    double seconds_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool done_ = false;
    bool active_ = false;
    int steps_ = 0;
    std::thread thread_;
};

std::string text_of(const std::string& journal) {
    return std::filesystem::exists(journal) ? read_text(journal) : std::string();
}

}  // namespace

Verdicts read_journal(const std::string& text, const std::string& unfinished) {
    Verdicts verdicts;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.rfind(kBegin, 0) == 0) verdicts[line.substr(std::string(kBegin).size())] = unfinished;
        if (line.rfind(kEnd, 0) != 0) continue;
        const std::string rest = line.substr(std::string(kEnd).size());
        const std::size_t tab = rest.find('\t');
        verdicts[rest.substr(0, tab)] = tab == std::string::npos ? "" : rest.substr(tab + 1);
    }
    return verdicts;
}

Limits read_limits(const std::string& text) {
    Limits limits;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t tab = line.find('\t');
        if (line.rfind(kSlow, 0) != 0 || tab == std::string::npos) continue;
        const std::size_t begin = std::string(kSlow).size();
        limits[line.substr(begin, tab - begin)] = std::strtoll(line.c_str() + tab + 1, nullptr, 10);
    }
    return limits;
}

Verdicts probe_in_child(const std::string& program, const std::vector<std::string>& arguments,
                        const std::string& journal, double seconds, double candidate_seconds) {
    std::vector<std::string> command = {program};
    command.insert(command.end(), arguments.begin(), arguments.end());
    for (;;) {
        const std::size_t known = read_journal(text_of(journal), "?").size();
        const tune::ChildResult child = tune::run_child(command, seconds);
        const std::string text = text_of(journal);
        const bool hung = child.status == kHungStatus;
        const std::string reason =
            hung ? fmt::format("hung: killed after {:.1f} s", candidate_seconds) : child.failure();
        if (child.ok()) return read_journal(text, "was not finished");
        const Verdicts verdicts = read_journal(text, reason);
        if (verdicts.size() == known)
            fail(ErrorCode::io, "tune: the process that runs candidates first failed before any: {}", reason);
        // So that the next process does not take this one's end for its own.
        const Verdicts unfinished = read_journal(text, "?");
        std::ofstream out(journal, std::ios::app);
        for (const auto& [variant, verdict] : unfinished)
            if (verdict == "?") out << '\n' << kEnd << variant << '\t' << one_line(reason) << '\n';
    }
}

void probe_here(const std::vector<std::string>& variants, const std::string& journal, double step_seconds,
                const ProbeVariant& probe) {
    const Verdicts known = read_journal(text_of(journal), "?");
    std::ofstream out(journal, std::ios::app);
    Watchdog watchdog(step_seconds);
    for (const std::string& variant : variants) {
        if (known.count(variant) != 0) continue;
        out << kBegin << variant << std::endl;  // NOLINT: flushed, since the process may end at once
        watchdog.watch_steps(true);
        std::string reason;
        try {
            if (const std::int64_t most = probe(variant, [&] { watchdog.step(); }); most > 0)
                out << kSlow << variant << '\t' << most << '\n';
        } catch (const Error& error) {
            reason = error.what();
            // Nothing works after a sticky CUDA error: the next process goes on.
            if (error.code() == ErrorCode::device) {
                out << kEnd << variant << '\t' << one_line(reason) << std::endl;  // NOLINT
                _exit(1);
            }
        } catch (const std::exception& error) {
            reason = error.what();
        }
        watchdog.watch_steps(false);
        out << kEnd << variant << '\t' << one_line(reason) << std::endl;  // NOLINT
    }
}

}  // namespace tokamak::cli::tuning
