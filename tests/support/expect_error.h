// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tokamak/error.h"

namespace tokamak::test {

/// Expects `call` to throw an Error of that code whose message contains every text.
template <class Call>
void expect_error(const Call& call, ErrorCode code, const std::vector<std::string>& texts) {
    try {
        call();
        ADD_FAILURE() << "no error; expected one with \"" << (texts.empty() ? "" : texts.front()) << "\"";
    } catch (const Error& error) {
        EXPECT_STREQ(to_string(error.code()), to_string(code)) << error.what();
        for (const std::string& text : texts)
            EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
                << "\"" << text << "\" is not in: " << error.what();
    }
}

template <class Call>
void expect_error(const Call& call, const std::string& text, ErrorCode code = ErrorCode::invalid_argument) {
    expect_error(call, code, std::vector<std::string>{text});
}

}  // namespace tokamak::test
