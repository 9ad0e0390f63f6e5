// SPDX-License-Identifier: Apache-2.0
// Checks of numbers on the command line. Those of CLI11 print the largest double in full.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

namespace tokamak::cli {

inline CLI::Validator number_check(const char* name, const char* expected, bool (*fits)(double)) {
    return {[=](std::string& text) {
                double value = 0;
                const bool right = CLI::detail::lexical_cast(text, value) && fits(value);
                return right ? std::string() : fmt::format("is {}, expected {}", text, expected);
            },
            name};
}

inline CLI::Validator positive_number() {
    return number_check("POSITIVE", "a number above 0", [](double value) { return value > 0; });
}
inline CLI::Validator nonnegative_number() {
    return number_check("NONNEGATIVE", "a number of at least 0", [](double value) { return value >= 0; });
}

}  // namespace tokamak::cli
