// SPDX-License-Identifier: Apache-2.0
#include "tokamak/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "support/expect_error.h"

namespace tokamak {
namespace {

using test::expect_error;
using Sizes = std::vector<std::int64_t>;

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::array kAllDTypes = {DType::bf16, DType::f16,  DType::f32, DType::f64, DType::e4m3,
                                   DType::e8m0, DType::u4x2, DType::u8,  DType::i32, DType::i64};

TEST(DType, SizesAndNames) {
    const std::array<std::size_t, 10> sizes = {2, 2, 4, 8, 1, 1, 1, 1, 4, 8};
    const std::array<const char*, 10> names = {"bf16", "f16", "f32", "f64", "e4m3", "e8m0", "u4x2", "u8", "i32", "i64"};
    for (std::size_t i = 0; i < kAllDTypes.size(); ++i) {
        EXPECT_EQ(size_of(kAllDTypes[i]), sizes[i]);
        EXPECT_STREQ(to_string(kAllDTypes[i]), names[i]);
    }
}

TEST(Tensor, DefaultIsAbsentAndHoldsNothing) {
    const Tensor absent;
    EXPECT_FALSE(absent);
    EXPECT_EQ(absent.elements(), 0);
    EXPECT_EQ(absent.bytes(), 0U);
    EXPECT_EQ(to_string(absent), "absent");
    expect_error([&] { (void)absent.first_rows(0); }, "absent");
    expect_error([&] { (void)absent.at(0); }, "absent");
    expect_error([&] { (void)absent.reshape({1}); }, "absent");
}

TEST(Tensor, RowMajorStridesForEveryRank) {
    const Sizes all = {2, 3, 4, 5, 6, 7};
    std::byte memory{};
    for (std::size_t rank = 0; rank <= all.size(); ++rank) {
        const Tensor t(&memory, DType::i32, std::span(all).first(rank), Device::cuda(3));
        EXPECT_TRUE(t);
        EXPECT_EQ(t.rank, static_cast<int>(rank));
        EXPECT_EQ(t.device, Device::cuda(3));
        EXPECT_TRUE(t.contiguous());
        std::int64_t stride = 1;
        for (int d = t.rank - 1; d >= 0; --d) {
            EXPECT_EQ(t.size(d), all[static_cast<std::size_t>(d)]);
            EXPECT_EQ(t.stride(d), stride);
            stride *= t.size(d);
        }
        EXPECT_EQ(t.elements(), stride);
        EXPECT_EQ(t.bytes(), static_cast<std::size_t>(stride) * 4);
    }
}

TEST(Tensor, NeverMoreThanSixDimensions) {
    expect_error([] { Tensor(nullptr, DType::u8, {1, 1, 1, 1, 1, 1, 1}); }, "7 dimensions, at most 6");
    expect_error([] { Tensor::strided(nullptr, DType::u8, Sizes(7, 1), Sizes(7, 1)); }, "7 dimensions, at most 6");
}

TEST(Tensor, NegativeSizesAndStridesAreRefused) {
    expect_error([] { Tensor(nullptr, DType::u8, {4, -1}); }, "a dimension is -1, expected at least 0");
    expect_error([] { Tensor(nullptr, DType::u8, {0, std::numeric_limits<std::int64_t>::min()}); }, "a dimension is -");
    expect_error([] { Tensor::strided(nullptr, DType::u8, Sizes{4, 2}, Sizes{-2, 1}); }, "a stride is -2");
    expect_error([] { Tensor::strided(nullptr, DType::u8, Sizes{4, 2}, Sizes{1}); }, "1 strides for 2 dimensions");
}

TEST(Tensor, ByteCountsUpTo63BitsAreHeldAndNoMore) {
    EXPECT_EQ(Tensor(nullptr, DType::u8, {kMax}).elements(), kMax);
    EXPECT_EQ(Tensor(nullptr, DType::bf16, {kMax / 2}).bytes(), static_cast<std::size_t>(kMax) - 1);
    expect_error([] { Tensor(nullptr, DType::bf16, {kMax / 2 + 1}); }, "2^63");
    expect_error([] { Tensor(nullptr, DType::f64, {kMax}); }, "2^63");
    expect_error([] { Tensor(nullptr, DType::u8, {std::int64_t{1} << 32, std::int64_t{1} << 31}); }, "2^63");
    const std::int64_t third = std::int64_t{1} << 21;
    EXPECT_NO_THROW(Tensor(nullptr, DType::u8, {third, third, third - 1}));
    expect_error([&] { Tensor(nullptr, DType::u8, {third, third, third}); }, "2^63");
}

TEST(Tensor, AnExtentBeyond63BitsIsRefusedForStridedViewsToo) {
    EXPECT_NO_THROW(Tensor::strided(nullptr, DType::u8, Sizes{2}, Sizes{kMax - 1}));
    expect_error([] { Tensor::strided(nullptr, DType::u8, Sizes{2}, Sizes{kMax}); }, "extent");
    expect_error([] { Tensor::strided(nullptr, DType::u8, Sizes{3}, Sizes{kMax / 2 + 1}); }, "extent");
    expect_error([] { Tensor::strided(nullptr, DType::f32, Sizes{2, 2}, Sizes{kMax / 8, kMax / 8 + 1}); }, "extent");
    // A dimension of one never moves, whatever its stride says.
    EXPECT_NO_THROW(Tensor::strided(nullptr, DType::f64, Sizes{1, 4}, Sizes{kMax, 1}));
}

TEST(Tensor, ContiguousLooksOnlyAtDimensionsThatMove) {
    const auto contiguous = [](const Sizes& shape, const Sizes& strides) {
        return Tensor::strided(nullptr, DType::f32, shape, strides).contiguous();
    };
    EXPECT_TRUE(contiguous({2, 3}, {3, 1}));
    EXPECT_FALSE(contiguous({2, 3}, {4, 1}));
    EXPECT_FALSE(contiguous({2, 3}, {1, 2}));
    EXPECT_FALSE(contiguous({2, 3}, {0, 1}));
    EXPECT_TRUE(contiguous({1, 3}, {100, 1}));
    EXPECT_TRUE(contiguous({2, 1, 3}, {3, 77, 1}));
    EXPECT_FALSE(contiguous({2, 3, 1}, {6, 2, 1}));
}

TEST(Tensor, EmptyTensorsAreContiguousWhereverTheZeroStands) {
    for (const Sizes& shape : {Sizes{0}, Sizes{0, 4}, Sizes{4, 0}, Sizes{3, 0, 5}, Sizes{2, 3, 0}}) {
        const Tensor t(nullptr, DType::bf16, shape);
        EXPECT_TRUE(t) << to_string(t);
        EXPECT_EQ(t.elements(), 0);
        EXPECT_TRUE(t.contiguous()) << to_string(t);
        EXPECT_EQ(t.reshape({0, 7}).elements(), 0);
        EXPECT_EQ(to_string(t).find("strides"), std::string::npos) << to_string(t);
    }
}

TEST(Tensor, FirstRowsKeepStridesAndRefuseMoreThanThereAre) {
    std::array<float, 40> memory{};
    const Tensor t = Tensor::strided(memory.data(), DType::f32, Sizes{4, 3}, Sizes{10, 1});
    for (std::int64_t rows = 0; rows <= 4; ++rows) {
        const Tensor view = t.first_rows(rows);
        EXPECT_EQ(view.size(0), rows);
        EXPECT_EQ(view.size(1), 3);
        EXPECT_EQ(view.stride(0), 10);
        EXPECT_EQ(view.data, t.data);
    }
    expect_error([&] { (void)t.first_rows(5); }, "first 5 rows of f32[4, 3] strides [10, 1]");
    expect_error([&] { (void)t.first_rows(-1); }, "first -1 rows");
}

TEST(Tensor, AtStepsByTheStrideOfTheFirstDimension) {
    std::array<std::int32_t, 120> memory{};
    std::iota(memory.begin(), memory.end(), 0);
    const Tensor t = Tensor::strided(memory.data(), DType::i32, Sizes{5, 2, 3}, Sizes{20, 7, 2});
    for (std::int64_t i = 0; i < 5; ++i)
        for (std::int64_t j = 0; j < 2; ++j)
            for (std::int64_t k = 0; k < 3; ++k) {
                const Tensor scalar = t.at(i).at(j).at(k);
                EXPECT_EQ(scalar.rank, 0);
                EXPECT_EQ(scalar.elements(), 1);
                EXPECT_EQ(*scalar.as<std::int32_t>(), i * 20 + j * 7 + k * 2);
            }
    expect_error([&] { (void)t.at(5); }, "index 5 of i32[5, 2, 3]");
    expect_error([&] { (void)t.at(-1); }, "index -1 of");
    expect_error([&] { (void)t.at(0).at(0).at(0).at(0); }, "index 0 of i32[]");
}

TEST(Tensor, ReshapeKeepsElementsAndNeedsContiguity) {
    std::array<float, 24> memory{};
    const Tensor t(memory.data(), DType::f32, {2, 3, 4}, Device::cuda(1));
    const Tensor flat = t.reshape({24});
    EXPECT_EQ(flat.data, t.data);
    EXPECT_EQ(flat.device, t.device);
    EXPECT_EQ(t.reshape({4, 6}).stride(0), 6);
    expect_error([&] { (void)t.reshape({5, 5}); }, "f32[2, 3, 4] cannot be seen as f32[5, 5]");
    expect_error([&] { (void)t.reshape({-24}); }, "a dimension is -24");
    const Tensor strided = Tensor::strided(memory.data(), DType::f32, Sizes{2, 3}, Sizes{4, 1});
    expect_error([&] { (void)strided.reshape({6}); }, "cannot be seen");
}

TEST(Tensor, TextNamesDtypeShapeAndStridesWhereTheyMatter) {
    EXPECT_EQ(to_string(Tensor(nullptr, DType::bf16, {64, 7168})), "bf16[64, 7168]");
    EXPECT_EQ(to_string(Tensor::strided(nullptr, DType::bf16, Sizes{64, 7168}, Sizes{14336, 1})),
              "bf16[64, 7168] strides [14336, 1]");
    EXPECT_EQ(to_string(Tensor(nullptr, DType::u4x2, std::initializer_list<std::int64_t>{})), "u4x2[]");
}

/// Random shapes against a count of the elements one by one.
TEST(Tensor, RandomStridedViewsReachExactlyTheirElements) {
    std::mt19937 random(std::random_device{}());
    for (int round = 0; round < 200; ++round) {
        Sizes shape(1 + random() % 4);
        for (auto& size : shape) size = static_cast<std::int64_t>(random() % 5);
        Sizes strides(shape.size());
        for (auto& stride : strides) stride = static_cast<std::int64_t>(random() % 6);
        std::vector<std::uint8_t> memory(128);
        const Tensor t = Tensor::strided(memory.data(), DType::u8, shape, strides);
        std::int64_t count = 0;
        const auto visit = [&](const auto& self, const Tensor& part) -> void {
            if (part.rank == 0) {
                ++count;
                const auto offset = part.as<std::uint8_t>() - memory.data();
                ASSERT_TRUE(offset >= 0 && offset < 128);
                return;
            }
            for (std::int64_t i = 0; i < part.size(0); ++i) self(self, part.at(i));
        };
        visit(visit, t);
        EXPECT_EQ(count, t.elements());
    }
}

}  // namespace
}  // namespace tokamak
