// SPDX-License-Identifier: Apache-2.0
#include "tokamak/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/environment.h"
#include "core/throw.h"
#include "support/scoped.h"

namespace tokamak {
namespace {

TEST(Error, EveryCodeHasItsOwnName) {
    std::set<std::string> names;
    for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code)
        names.insert(to_string(static_cast<ErrorCode>(code)));
    EXPECT_EQ(names.size(), 7U);
    EXPECT_FALSE(names.contains("unknown"));
    EXPECT_STREQ(to_string(ErrorCode::invalid_argument), "invalid_argument");
    EXPECT_STREQ(to_string(static_cast<ErrorCode>(99)), "unknown");
}

TEST(Error, CarriesCodeAndMessageAsAStandardException) {
    try {
        fail(ErrorCode::parse, "{}: expected {}, got {}", "thing", 3, "four");
    } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "thing: expected 3, got four");
        const auto* own = dynamic_cast<const Error*>(&error);
        ASSERT_NE(own, nullptr);
        EXPECT_EQ(own->code(), ErrorCode::parse);
    }
}

TEST(Support, AnswersAndSaysWhy) {
    EXPECT_TRUE(Support::yes());
    EXPECT_TRUE(Support::yes().reason.empty());
    const Support no = Support::no("hidden is odd");
    EXPECT_FALSE(no);
    EXPECT_EQ(no.reason, "hidden is odd");
}

TEST(Environment, EmptyCountsAsUnset) {
    const char* name = "TOKAMAK_TEST_VARIABLE";
    const test::ScopedVariable unset(name, std::nullopt);
    EXPECT_FALSE(environment::get(name));
    {
        const test::ScopedVariable empty(name, "");
        EXPECT_FALSE(environment::get(name));
    }
    const test::ScopedVariable set(name, " value with spaces ");
    EXPECT_EQ(environment::get(name), " value with spaces ");
}

}  // namespace
}  // namespace tokamak
