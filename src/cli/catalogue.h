// SPDX-License-Identifier: Apache-2.0
// Every operator with every format it takes, and what a device offers for each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tokamak/device.h"

namespace tokamak::cli {

/// What a device has for one operator and format: variants, or the reason why there are none.
struct Offer {
    std::vector<std::string> variants;
    std::string reason;
};

struct CatalogueEntry {
    std::string op;                    ///< "moe::fused_moe"
    std::string format;                ///< "int4_g32", "fp8_656", or "" where an operator has none
    std::function<Offer(Device)> ask;  ///< asks supports and make_plan with a problem of ordinary size
};

std::vector<CatalogueEntry> catalogue();

}  // namespace tokamak::cli
