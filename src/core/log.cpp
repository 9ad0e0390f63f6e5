// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

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

/// Of this thread.
struct Held {
    int scopes = 0;
    std::vector<std::string> messages;
};

Held& held() {
    thread_local Held instance;
    return instance;
}

}  // namespace

LogSink set_log_sink(LogSink sink) {
    const std::lock_guard lock(log().mutex);
    return std::exchange(log().sink, std::move(sink));
}

HeldWarnings::HeldWarnings() { ++held().scopes; }

HeldWarnings::~HeldWarnings() {
    if (--held().scopes > 0) return;
    const std::vector<std::string> messages = std::exchange(held().messages, {});
    for (const std::string& message : messages) {
        try {
            warn(message);
        } catch (...) {  // a sink's exception has no way out of here
        }
    }
}

void warn(const std::string& message) {
    if (held().scopes > 0) {
        held().messages.push_back(message);
        return;
    }
    const std::lock_guard lock(log().mutex);
    const LogSink sink = log().sink;  // lives on if it replaces itself
    if (sink) sink(message);
}

}  // namespace tokamak
