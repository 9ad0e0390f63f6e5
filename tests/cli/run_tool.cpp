// SPDX-License-Identifier: Apache-2.0
#include "cli/run_tool.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace tokamak::test {
namespace {

/// The tool of the build; where the programs were copied to another machine, the one beside this program.
std::string tool_path() {
    if (access(TOKAMAK_TOOL, X_OK) == 0) return TOKAMAK_TOOL;
    return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tokamak";
}

[[noreturn]] void become_tool(const std::vector<std::string>& arguments, const std::string& out,
                              const std::string& error) {
    const int out_file = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int error_file = open(error.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(out_file, STDOUT_FILENO);
    dup2(error_file, STDERR_FILENO);
    std::vector<char*> argv;
    std::string tool = tool_path();
    argv.push_back(tool.data());
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(tool.c_str(), argv.data());
    _exit(127);
}

}  // namespace

ToolResult run_tool(const std::vector<std::string>& arguments) {
    const TemporaryFolder folder;
    const std::string out = folder.file("out");
    const std::string error = folder.file("error");
    const pid_t child = fork();
    if (child < 0) throw std::runtime_error("fork failed");
    if (child == 0) become_tool(arguments, out, error);
    int status = 0;
    waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(error)};
}

}  // namespace tokamak::test
