// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "tokamak/device.h"

namespace tokamak {

/// First CUDA device, or a skipped test.
#define TOKAMAK_REQUIRE_GPU() \
    if (tokamak::list_devices().size() < 2) GTEST_SKIP() << "no CUDA device"

}  // namespace tokamak
