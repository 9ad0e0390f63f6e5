// SPDX-License-Identifier: Apache-2.0
// How deep a JSON text nests. The parser needs no call depth, but copying, comparing and printing a parsed value does,
// so text of unknown origin is asked first.
#pragma once

#include <cstddef>
#include <string_view>

namespace tokamak {

/// More than any file that Tokamak reads has.
inline constexpr std::size_t kMostJsonDepth = 64;

/// Whether arrays and objects nest deeper than `most`. Brackets in strings do not count; the text need not be valid.
constexpr bool nests_deeper(std::string_view text, std::size_t most = kMostJsonDepth) noexcept {
    std::size_t depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > most) return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return false;
}

}  // namespace tokamak
