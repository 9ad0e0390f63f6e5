// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <utility>

namespace tokamak {
namespace {

struct Log {
    std::recursive_mutex mutex;  // a sink may warn or replace itself
    LogSink sink = [](const std::string& message) { std::fprintf(stderr, "tokamak: %s\n", message.c_str()); };
};

Log& log() {
    static Log instance;
    return instance;
}

}  // namespace

LogSink set_log_sink(LogSink sink) {
    const std::lock_guard lock(log().mutex);
    return std::exchange(log().sink, std::move(sink));
}

void warn(const std::string& message) {
    const std::lock_guard lock(log().mutex);
    const LogSink sink = log().sink;  // lives on if it replaces itself
    if (sink) sink(message);
}

}  // namespace tokamak
