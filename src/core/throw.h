// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <utility>

#include "tokamak/error.h"

namespace tokamak {

/// Throws an Error with a formatted message: fail(ErrorCode::parse, "{}: expected {}, got {}", ...).
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
    throw Error(code, fmt::format(text, std::forward<Args>(args)...));
}

/// The most frequent kind: a broken contract of a public function.
template <class... Args>
[[noreturn]] void invalid(fmt::format_string<Args...> text, Args&&... args) {
    throw Error(ErrorCode::invalid_argument, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace tokamak
