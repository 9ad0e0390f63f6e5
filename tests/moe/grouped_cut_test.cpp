// SPDX-License-Identifier: Apache-2.0
// How the host cuts strips into units and a combine into jobs, so that the grouped kernel divides by multiplications.
#include <gtest/gtest.h>

#include "moe/cuda/grouped/grouped_args.h"

namespace tokamak::moe::cuda {
namespace {

TEST(UnitCut, UnitsHaveAllStripsAndDifferByOne) {
    for (int strips = 1; strips <= 130; ++strips)
        for (int units = 1; units <= strips; ++units) {
            const UnitCut cut(strips, units);
            EXPECT_EQ(cut.each * units + cut.longer, strips) << units;
            EXPECT_LT(cut.longer, units) << strips;
            EXPECT_EQ(cut.units.value, static_cast<std::uint32_t>(units)) << strips;
        }
}

TEST(CombineCut, JobsHaveAllPiecesOfAToken) {
    for (const int cols : {1, 33, 96, 128, 420, 2880, 7168, 8224})
        for (const std::int64_t tokens : {0, 1, 7, 64, 512, 1024})
            for (const std::int64_t shares : {1, 8, 3168}) {
                const CombineCut cut(cols, tokens, shares);
                const int columns = cols % 4 == 0 ? 128 : 32;
                EXPECT_GE(cut.pieces * columns, cols);
                EXPECT_LT((cut.pieces - 1) * columns, cols);
                EXPECT_GE(cut.length, 1);
                EXPECT_LE(cut.length, kCombinePieces);
                const auto parts = static_cast<int>(cut.parts.value);
                EXPECT_GE(parts * cut.length, cut.pieces) << cols << " " << tokens << " " << shares;
                EXPECT_LT((parts - 1) * cut.length, cut.pieces) << cols << " " << tokens << " " << shares;
            }
}

TEST(CombineCut, ThereAreAsManyJobsAsShares) {
    const auto jobs = [](const CombineCut& cut, std::int64_t tokens) { return tokens * cut.parts.value; };
    EXPECT_GE(jobs(CombineCut(7168, 64, 3168), 64), 3168);
    EXPECT_GE(jobs(CombineCut(7168, 512, 3168), 512), 3168);
    EXPECT_EQ(jobs(CombineCut(7168, 8, 3168), 8), 8 * 56) << "not more than there is to do";
}

TEST(CombineCut, ShortJobsAreWholeTokensInFewLoads) {
    for (const int cols : {1, 33, 128, 420, 2880, 7168, 8224})
        for (const std::int64_t tokens : {0, 1, 7, 64, 512, 4096}) {
            const CombineCut cut = CombineCut::short_jobs(cols, tokens, 2112);
            EXPECT_GE(cut.length, 1);
            EXPECT_LE(cut.length, kShortJobPieces);
            const auto parts = static_cast<int>(cut.parts.value);
            EXPECT_GE(parts * cut.length, cut.pieces) << cols << " " << tokens;
            EXPECT_LT((parts - 1) * cut.length, cut.pieces) << cols << " " << tokens;
        }
    EXPECT_EQ(CombineCut::short_jobs(2880, 256, 2112).length, 3) << "a job for each warp";
    EXPECT_EQ(CombineCut::short_jobs(7168, 512, 2112).length, kShortJobPieces);
}

}  // namespace
}  // namespace tokamak::moe::cuda
