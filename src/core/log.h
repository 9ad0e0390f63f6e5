// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tokamak/log.h"

namespace tokamak {

/// Hands a warning to the sink.
void warn(const std::string& message);

/// Keeps this thread's warnings back while it lives, then hands them over: make one before taking a lock that a sink,
/// which may call the library, could want too. Only the outermost of nested ones hands over.
class HeldWarnings {
  public:
    HeldWarnings();
    ~HeldWarnings();
    HeldWarnings(const HeldWarnings&) = delete;
    HeldWarnings& operator=(const HeldWarnings&) = delete;
};

}  // namespace tokamak
