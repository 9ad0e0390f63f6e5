// SPDX-License-Identifier: Apache-2.0
// What core tests change for their own time: the log sink and environment variables.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/environment.h"
#include "core/log.h"

namespace tokamak::test {

/// Collects warnings while it lives.
class CapturedLog {
  public:
    CapturedLog() : previous_(set_log_sink([this](const std::string& message) { messages_.push_back(message); })) {}
    ~CapturedLog() { set_log_sink(std::move(previous_)); }
    CapturedLog(const CapturedLog&) = delete;
    CapturedLog& operator=(const CapturedLog&) = delete;

    [[nodiscard]] const std::vector<std::string>& messages() const { return messages_; }
    [[nodiscard]] std::string only() const {
        return messages_.size() == 1 ? messages_[0] : std::to_string(messages_.size()) + " warnings";
    }

  private:
    std::vector<std::string> messages_;
    LogSink previous_;
};

/// Sets (or, with no value, removes) an environment variable while it lives.
class ScopedVariable {
  public:
    ScopedVariable(const char* name, const std::optional<std::string>& value)
        : name_(name), previous_(environment::get(name)) {
        put(value);
    }
    ~ScopedVariable() { put(previous_); }
    ScopedVariable(const ScopedVariable&) = delete;
    ScopedVariable& operator=(const ScopedVariable&) = delete;

  private:
    void put(const std::optional<std::string>& value) const {
        if (value)
            setenv(name_, value->c_str(), 1);
        else
            unsetenv(name_);
    }

    const char* name_;
    std::optional<std::string> previous_;
};

}  // namespace tokamak::test
