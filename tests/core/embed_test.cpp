// SPDX-License-Identifier: Apache-2.0
// Tables that ship with the library are compiled in byte for byte. This program's own definition of shipped_configs(),
// made by the same script from two files, stands before the library's.
#include <gtest/gtest.h>

#include "core/shipped_configs.h"
#include "support/temporary_folder.h"

namespace tokamak {
namespace {

TEST(ShippedConfigs, AreTheFilesByteForByte) {
    const auto configs = shipped_configs();
    ASSERT_EQ(configs.size(), 2U);
    EXPECT_STREQ(configs[0].name, "configs/a.json");
    EXPECT_EQ(configs[0].text, test::read_file(EMBEDDED_FOLDER "/a.json"));
    const std::string odd = test::read_file(EMBEDDED_FOLDER "/odd.json");
    EXPECT_GT(odd.size(), 65536U);
    EXPECT_TRUE(configs[1].text == odd) << "differs";
}

}  // namespace
}  // namespace tokamak
