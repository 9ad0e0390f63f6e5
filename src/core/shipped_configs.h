// SPDX-License-Identifier: Apache-2.0
// The files of configs/, compiled in by cmake/embed_configs.cmake.
#pragma once

#include <span>

namespace tokamak {

struct ShippedConfig {
    const char* name;
    const char* text;
};

std::span<const ShippedConfig> shipped_configs() noexcept;

}  // namespace tokamak
