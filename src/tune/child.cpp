// SPDX-License-Identifier: Apache-2.0
#include "tune/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT: kill is POSIX
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/throw.h"

extern char** environ;  // NOLINT: POSIX

namespace tokamak::tune {
namespace {

constexpr std::size_t kOutputBytes = 4096;

using Clock = std::chrono::steady_clock;

/// A file descriptor that is closed at the end.
class File {
  public:
    explicit File(int number) : number_(number) {}
    ~File() { close(); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    [[nodiscard]] int number() const noexcept { return number_; }
    void close() noexcept {
        if (number_ >= 0) ::close(number_);
        number_ = -1;
    }

  private:
    int number_;
};

/// Starts the program in a process group of its own, its output going to `output`.
pid_t start(const std::vector<std::string>& arguments, int output) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));  // NOLINT
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    pid_t child = 0;
    const int error = posix_spawn(&child, argv[0], &actions, &attributes, argv.data(), environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) fail(ErrorCode::io, "tune: `{}` could not be started: {}", arguments[0], std::strerror(error));
    return child;
}

/// Reads what has come; false at the end of the output.
bool read_some(int file, std::string& output) {
    char buffer[1024];
    const ssize_t count = read(file, buffer, sizeof buffer);
    if (count <= 0) return count < 0 && errno == EINTR;
    output.append(buffer, static_cast<std::size_t>(count));
    if (output.size() > 2 * kOutputBytes) output.erase(0, output.size() - kOutputBytes);
    return true;
}

/// As waitpid, over interruptions. Not 0: the child has ended, and `status` is set if the return is its id.
pid_t wait_for(pid_t child, int& status, int options) {
    pid_t ended = 0;
    do ended = waitpid(child, &status, options);
    while (ended < 0 && errno == EINTR);
    return ended;
}

std::string last_line(std::string text) {
    text.erase(text.find_last_not_of(" \r\n\t") + 1);
    return text.substr(text.find_last_of('\n') + 1);
}

}  // namespace

std::string ChildResult::failure() const {
    if (ok()) return {};
    if (timed_out) return fmt::format("hung: killed after {:.1f} s", seconds);
    if (signal != 0) return fmt::format("crashed: signal {} ({})", signal, strsignal(signal));
    const std::string line = last_line(output);
    return fmt::format("exit status {}{}{}", status, line.empty() ? "" : ": ", line);
}

ChildResult run_child(const std::vector<std::string>& arguments, double seconds) {
    if (arguments.empty()) invalid("tune: `arguments` is empty, expected a program");
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail(ErrorCode::io, "tune: no pipe: {}", std::strerror(errno));
    File from_child(ends[0]);
    File to_parent(ends[1]);
    const auto begin = Clock::now();
    const pid_t child = start(arguments, to_parent.number());
    to_parent.close();

    ChildResult result;
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    int status = 0;
    pid_t ended = 0;
    bool open = true;
    const auto read_within = [&](int milliseconds) {
        pollfd waiting = {open ? from_child.number() : -1, POLLIN, 0};
        if (poll(&waiting, 1, milliseconds) <= 0) return false;
        open = read_some(from_child.number(), result.output);
        return open;
    };
    // The output may stay open in what the child started, so its end alone does not count.
    while ((ended = wait_for(child, status, WNOHANG)) == 0) {
        if (elapsed() >= seconds) {
            result.timed_out = true;
            break;
        }
        read_within(10);
    }
    kill(-child, SIGKILL);
    if (result.timed_out) wait_for(child, status, 0);
    while (read_within(0)) {
    }
    result.seconds = elapsed();
    if (result.output.size() > kOutputBytes) result.output.erase(0, result.output.size() - kOutputBytes);
    // Somebody else waited for it (SIGCHLD ignored, say): how it ended is not known, so it counts as failed.
    const bool known = ended == child && !result.timed_out;
    if (known && WIFEXITED(status)) result.status = WEXITSTATUS(status);
    if (known && WIFSIGNALED(status)) result.signal = WTERMSIG(status);
    if (ended < 0) result.output += "\nits exit status was lost";
    return result;
}

}  // namespace tokamak::tune
