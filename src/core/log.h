// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tokamak/log.h"

namespace tokamak {

/// Hands a warning to the sink.
void warn(const std::string& message);

}  // namespace tokamak
