// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <utility>

namespace tokamak {
namespace {

struct Log {
    std::mutex mutex;
    LogSink sink = [](const std::string& message) { std::fprintf(stderr, "tokamak: %s\n", message.c_str()); };
};

Log& log() {
    static Log instance;
    return instance;
}

}  // namespace

void set_log_sink(LogSink sink) {
    const std::lock_guard lock(log().mutex);
    log().sink = std::move(sink);
}

void warn(const std::string& message) {
    const std::lock_guard lock(log().mutex);
    if (log().sink) log().sink(message);
}

}  // namespace tokamak
