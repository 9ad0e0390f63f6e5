// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/expect_error.h"
#include "tokamak/error.h"

namespace tokamak::moe::test {

/// Expects an Error of one kind whose message has every given part.
template <class Call>
void expect_refused(const Call& call, const std::vector<std::string>& parts,
                    ErrorCode code = ErrorCode::invalid_argument) {
    tokamak::test::expect_error(call, code, parts);
}

/// make_plan refuses a problem, and supports says the same.
template <class Problem>
void expect_unsupported(const Problem& problem, const std::vector<std::string>& parts,
                        ErrorCode code = ErrorCode::invalid_argument, Device device = Device::cpu()) {
    expect_refused([&] { (void)make_plan(problem, device); }, parts, code);
    const Support support = supports(problem, device);
    EXPECT_FALSE(support.ok);
    for (const std::string& part : parts)
        EXPECT_NE(support.reason.find(part), std::string::npos)
            << "\"" << support.reason << "\" lacks \"" << part << "\"";
}

}  // namespace tokamak::moe::test
