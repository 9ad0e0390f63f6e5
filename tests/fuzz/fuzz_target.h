// SPDX-License-Identifier: Apache-2.0
// A fuzz target takes any bytes. Only tokamak::Error may leave the code under test; a property that does not hold ends
// the process, as a sanitizer would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tokamak/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace tokamak::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

inline void require(bool holds, const char* property) {
    if (holds) return;
    std::fprintf(stderr, "property does not hold: %s\n", property);
    std::abort();
}

/// Runs `code` and passes over the errors that it is entitled to.
template <class Code>
void allow_errors(const Code& code) {
    try {
        code();
    } catch (const Error& error) {
        require(error.code() != ErrorCode::internal, "no internal error");
    }
}

}  // namespace tokamak::fuzz
