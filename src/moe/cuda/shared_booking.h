// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace tokamak::moe::cuda {

/// Hands out pieces of a CTA's shared memory, each aligned to 16 bytes. Offsets are meaningless once they pass 2^31,
/// but then the sum says so.
struct Booking {
    std::int64_t bytes = 0;
    int take(std::int64_t size) {
        const std::int64_t offset = bytes;
        bytes += (size + 15) / 16 * 16;
        return static_cast<int>(std::min<std::int64_t>(offset, 0x7FFFFFF0));
    }
};

}  // namespace tokamak::moe::cuda
