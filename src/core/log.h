// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

namespace tokamak {

/// Receives warnings: a bad entry in a configuration store, for instance. The default writes to stderr. The only global
/// state that changes; setting and calling it is thread-safe.
using LogSink = std::function<void(const std::string& message)>;
void set_log_sink(LogSink sink);
void warn(const std::string& message);

}  // namespace tokamak
