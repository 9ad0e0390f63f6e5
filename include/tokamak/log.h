// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

namespace tokamak {

/// Receives warnings: a bad entry in a configuration store, for instance. The default writes to stderr; an empty one
/// drops them. The only global state that changes; setting and calling it is thread-safe. Calls are serialised: a sink
/// needs no lock of its own, and a replaced sink is not running any more when `set_log_sink` returns. A sink may itself
/// call the library.
using LogSink = std::function<void(const std::string& message)>;
/// Returns the sink that was set before.
LogSink set_log_sink(LogSink sink);

}  // namespace tokamak
