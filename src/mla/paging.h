// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tokamak::mla {

/// One sequence's pages: logical page -> physical page. No table: positions are physical slots.
struct BlockTable {
    const std::int32_t* pages = nullptr;
    std::int64_t count = 0;
};

inline constexpr std::int64_t kMasked = -1;
/// The index that callers fill unused columns with. All others out of range are masked too, but check_ids refuses them.
inline constexpr std::int64_t kPadding = -1;

/// Physical slot of a position in a pool of `rows` rows; kMasked if the position is negative, past the table or the
/// pool, or in a page that the table places out of the pool.
inline std::int64_t physical_slot(std::int64_t position, std::int64_t page_size, std::int64_t rows,
                                  const BlockTable& table) noexcept {
    if (position < 0) return kMasked;
    if (table.pages == nullptr) return position < rows ? position : kMasked;
    const std::int64_t logical_page = position / page_size;
    if (logical_page >= table.count) return kMasked;
    const std::int64_t page = table.pages[logical_page];
    if (page < 0 || page >= rows / page_size) return kMasked;
    return page * page_size + position % page_size;
}

}  // namespace tokamak::mla
