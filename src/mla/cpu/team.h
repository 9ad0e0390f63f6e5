// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace tokamak::mla::cpu {

/// Threads worth starting for a call of `items` independent pieces that touch `elements` numbers in all: just the
/// caller's where waking the others would take longer than the work.
inline int team_size(int threads, std::int64_t items, std::int64_t elements) noexcept {
    constexpr std::int64_t worth_a_team = 1 << 14;
    return elements < worth_a_team ? 1 : static_cast<int>(std::min<std::int64_t>(threads, items));
}

}  // namespace tokamak::mla::cpu
