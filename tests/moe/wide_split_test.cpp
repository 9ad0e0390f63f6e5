// SPDX-License-Identifier: Apache-2.0
// How an expert's rows are shared by its row tiles: against brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "moe/cuda/wide/row_split.h"

namespace tokamak::moe::cuda {
namespace {

struct Widths {
    int least, step, most;
};
constexpr Widths kShapes[] = {{64, 32, 128}, {32, 32, 192}, {32, 16, 160}, {16, 16, 128}, {32, 8, 48}};
constexpr int kMostTested = 1400;

int width(const Widths& widths, int rows) {
    return std::max(widths.least, (rows + widths.step - 1) / widths.step * widths.step);
}

/// Least sum of widths of `tiles` tiles that hold so many rows, for all numbers of rows.
std::vector<int> least_sums(const Widths& widths, const std::vector<int>& with_one_less) {
    std::vector<int> sums(kMostTested + 1, std::numeric_limits<int>::max());
    for (int rows = 1; rows <= kMostTested; ++rows)
        for (int wide = widths.least; wide <= widths.most; wide += widths.step) {
            const int before = with_one_less[static_cast<std::size_t>(std::max(0, rows - wide))];
            if (before != std::numeric_limits<int>::max())
                sums[static_cast<std::size_t>(rows)] = std::min(sums[static_cast<std::size_t>(rows)], before + wide);
        }
    return sums;
}

/// Least sums by tiles and rows.
std::vector<std::vector<int>> all_least_sums(const Widths& widths) {
    std::vector<std::vector<int>> sums(1, std::vector<int>(kMostTested + 1, std::numeric_limits<int>::max()));
    sums[0][0] = 0;
    while (sums.back()[kMostTested] == std::numeric_limits<int>::max()) sums.push_back(least_sums(widths, sums.back()));
    sums.push_back(least_sums(widths, sums.back()));
    return sums;
}

TEST(WideRowSplit, AsFewTilesAndRowsAsCanBe) {
    for (const Widths& widths : kShapes) {
        const auto least = all_least_sums(widths);
        for (int rows = 1; rows <= kMostTested; ++rows) {
            std::size_t count = 1;
            while (least[count][static_cast<std::size_t>(rows)] == std::numeric_limits<int>::max()) ++count;
            const int tiles = wide_tile_count(rows, widths.most);
            ASSERT_EQ(tiles, static_cast<int>(count)) << rows;
            const WideRowSplit split(rows, tiles, widths.step);
            int sum = 0;
            for (int tile = 0; tile < tiles; ++tile) sum += width(widths, split.rows_of(tile));
            ASSERT_EQ(sum, least[count][static_cast<std::size_t>(rows)]) << rows << " rows, steps of " << widths.step;
        }
    }
}

TEST(WideRowSplit, EveryRowIsInOneTile) {
    for (const Widths& widths : kShapes)
        for (int rows = 1; rows <= kMostTested; ++rows) {
            const int tiles = wide_tile_count(rows, widths.most);
            const WideRowSplit split(rows, tiles, widths.step);
            int next = 0;
            for (int tile = 0; tile < tiles; ++tile) {
                ASSERT_EQ(split.first(tile), next) << rows;
                const int count = split.rows_of(tile);
                ASSERT_GT(count, 0) << rows;
                ASSERT_LE(count, widths.most) << rows;
                for (int row = next; row < next + count; ++row) ASSERT_EQ(split.tile_of(row), tile) << rows;
                next += count;
            }
            ASSERT_EQ(next, rows);
        }
}

TEST(WideRowSplit, RowsBehindWholeTiles) {
    constexpr int whole = 128;
    constexpr int extra = 16;
    for (int rows = 1; rows <= kMostTested; ++rows) {
        const int tiles = wide_tile_count(rows, whole, extra);
        const bool behind = rows / whole % 2 != 0 && rows % whole <= extra;
        ASSERT_EQ(tiles, behind ? rows / whole : (rows + whole - 1) / whole) << rows;
        const WideRowSplit split(rows, tiles, whole, extra);
        int next = 0;
        for (int tile = 0; tile < tiles; ++tile) {
            ASSERT_EQ(split.first(tile), next) << rows;
            const int count = split.rows_of(tile);
            ASSERT_GT(count, 0) << rows;
            ASSERT_LE(count, tile == tiles - 1 ? whole + extra : whole) << rows;
            for (int row = next; row < next + count; ++row) ASSERT_EQ(split.tile_of(row), tile) << rows;
            next += count;
        }
        ASSERT_EQ(next, rows);
    }
}

}  // namespace
}  // namespace tokamak::moe::cuda
