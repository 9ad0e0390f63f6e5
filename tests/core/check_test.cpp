// SPDX-License-Identifier: Apache-2.0
// Every refusal names operator, argument, expectation and what was given.
#include "core/check.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "support/expect_error.h"

namespace tokamak {
namespace {

using Sizes = std::vector<std::int64_t>;

class Check : public ::testing::Test {
  protected:
    alignas(256) std::array<float, 1024> memory{};

    [[nodiscard]] Tensor dense(std::initializer_list<std::int64_t> shape) const {
        return {memory.data(), DType::f32, shape};
    }
    [[nodiscard]] Tensor strided(const Sizes& shape, const Sizes& strides) const {
        return Tensor::strided(memory.data(), DType::f32, shape, strides);
    }
    static constexpr std::initializer_list<DType> kDTypes = {DType::f32, DType::bf16};
    /// For use within one full expression: the list of sizes ends with it.
    static check::Expect expect(std::initializer_list<std::int64_t> shape, int contiguous_from = 1,
                                std::size_t alignment = 0) {
        check::Expect expectation{.op = "toy", .name = "x", .dtypes = kDTypes, .shape = shape, .device = {}};
        expectation.contiguous_from = contiguous_from;
        expectation.alignment = alignment;
        return expectation;
    }
    static check::Expect expect_out(std::initializer_list<std::int64_t> shape) {
        check::Expect expectation = expect(shape);
        expectation.leading_rows = true;
        expectation.written = true;
        return expectation;
    }
    template <class... Texts>
    static void refuses(const Tensor& given, const check::Expect& expectation, Texts... texts) {
        test::expect_error([&] { check::tensor(given, expectation); }, ErrorCode::invalid_argument,
                           {"toy: `x`", std::string(texts)...});
    }
};

TEST_F(Check, AcceptsWhatIsExpected) {
    EXPECT_NO_THROW(check::tensor(dense({4, 8}), expect({4, 8})));
    EXPECT_NO_THROW(check::tensor(dense({4, 8}), expect({check::any, 8})));
    EXPECT_NO_THROW(check::tensor(strided({4, 8}, {100, 1}), expect({4, 8})));
    EXPECT_NO_THROW(check::tensor(dense({}), expect({})));
}

TEST_F(Check, AbsentTensors) {
    refuses(Tensor(), expect({4, check::any}), "is absent", "expected f32 or bf16[4, any]");
    EXPECT_FALSE(check::optional_tensor(Tensor(), expect({4})));
    EXPECT_TRUE(check::optional_tensor(dense({4}), expect({4})));
    test::expect_error([&] { (void)check::optional_tensor(dense({5}), expect({4})); }, "toy: `x` is f32[5]");
    EXPECT_NO_THROW(check::absent(Tensor(), "toy", "bias", "without a bias"));
    test::expect_error([&] { check::absent(dense({4}), "toy", "bias", "for softmax"); },
                       "toy: `bias` is f32[4], must be absent for softmax");
}

TEST_F(Check, DtypeShapeRankAndDevice) {
    refuses(Tensor(memory.data(), DType::i32, {4}), expect({4}), "has dtype i32", "expected f32 or bf16");
    refuses(dense({4, 8}), expect({4, 7}), "is f32[4, 8]", "expected shape [4, 7]");
    refuses(dense({5, 8}), expect({4, 8}), "is f32[5, 8]", "expected shape [4, 8]");
    refuses(dense({4, 8}), expect({4, 8, 1}), "is f32[4, 8]", "expected shape [4, 8, 1]");
    refuses(dense({4}), expect({}), "is f32[4]", "expected shape []");
    refuses(Tensor(memory.data(), DType::f32, {4}, Device::cuda(1)), expect({4}), "is on cuda:1", "expected cpu");
}

TEST_F(Check, LeadingRowsMayBeMoreButNotFewer) {
    EXPECT_NO_THROW(check::tensor(dense({4, 8}), expect_out({4, 8})));
    EXPECT_NO_THROW(check::tensor(dense({9, 8}), expect_out({4, 8})));
    refuses(dense({3, 8}), expect_out({4, 8}), "is f32[3, 8]", "expected shape [>= 4, 8]");
    refuses(dense({9, 9}), expect_out({4, 8}), "expected shape [>= 4, 8]");
}

TEST_F(Check, NullDataOnlyWithoutElements) {
    EXPECT_NO_THROW(check::tensor(Tensor(nullptr, DType::f32, {0, 8}), expect({0, 8})));
    refuses(Tensor(nullptr, DType::f32, {4, 8}), expect({4, 8}), "f32[4, 8] with null data");
    // Shape, dtype and device count for empty tensors too.
    refuses(Tensor(nullptr, DType::f32, {0, 8}), expect({0, 9}), "expected shape [0, 9]");
    refuses(Tensor(nullptr, DType::i32, {0, 8}), expect({0, 8}), "has dtype i32");
}

TEST_F(Check, ContiguityFromADimensionOn) {
    refuses(strided({4, 8}, {16, 2}), expect({4, 8}), "f32[4, 8] strides [16, 2]", "contiguous dimensions from 1 on");
    EXPECT_NO_THROW(check::tensor(dense({4, 8}), expect({4, 8}, 0)));
    refuses(strided({4, 8}, {9, 1}), expect({4, 8}, 0), "strides [9, 1]", "contiguous dimensions from 0 on");
    EXPECT_NO_THROW(check::tensor(strided({4, 8}, {1, 4}), expect({4, 8}, 2)));
    EXPECT_NO_THROW(check::tensor(strided({2, 3, 4}, {50, 4, 1}), expect({2, 3, 4})));
    refuses(strided({2, 3, 4}, {50, 5, 1}), expect({2, 3, 4}), "contiguous dimensions from 1 on");
    // A dimension of one element may have any stride.
    EXPECT_NO_THROW(check::tensor(strided({4, 1}, {16, 3}), expect({4, 1})));
}

TEST_F(Check, RowsOfAnOutputDoNotOverlap) {
    EXPECT_NO_THROW(check::tensor(strided({4, 8}, {0, 1}), expect({4, 8}))) << "an input may repeat its rows";
    EXPECT_NO_THROW(check::tensor(strided({4, 8}, {8, 1}), expect_out({4, 8})));
    refuses(strided({4, 8}, {0, 1}), expect_out({4, 8}), "strides [0, 1]", "must not overlap");
    refuses(strided({4, 8}, {7, 1}), expect_out({4, 8}), "strides [7, 1]", "must not overlap");
    EXPECT_NO_THROW(check::tensor(strided({1, 8}, {0, 1}), expect_out({1, 8})));
}

TEST_F(Check, AlignmentOfDataAndRows) {
    EXPECT_NO_THROW(check::tensor(dense({4, 8}), expect({4, 8}, 1, 16)));
    refuses(Tensor(memory.data() + 1, DType::f32, {4, 8}), expect({4, 8}, 1, 16), "at address",
            "alignment to 16 bytes");
    refuses(strided({4, 8}, {9, 1}), expect({4, 8}, 1, 16), "stride of 36 bytes in dimension 0", "multiple of 16");
    EXPECT_NO_THROW(check::tensor(strided({4, 8}, {12, 1}), expect({4, 8}, 1, 16)));
    // Without a demand the element's own size counts.
    refuses(Tensor(reinterpret_cast<std::byte*>(memory.data()) + 2, DType::f32, {4, 8}), expect({4, 8}),
            "alignment to 4 bytes");
}

TEST_F(Check, TokensAndTheirDeviceCount) {
    EXPECT_NO_THROW(check::tokens("toy", 0, 0));
    EXPECT_NO_THROW(check::tokens("toy", 64, 64));
    test::expect_error([] { check::tokens("toy", 65, 64); }, "toy: `tokens` is 65, the plan was made for at most 64");
    test::expect_error([] { check::tokens("toy", -1, 64); }, "toy: `tokens` is -1, expected at least 0");

    std::int32_t count = 5;
    const Tensor tensor(&count, DType::i32, {1});
    EXPECT_NO_THROW(check::num_tokens(tensor, "toy", Device::cpu()));
    EXPECT_NO_THROW(check::num_tokens(Tensor(), "toy", Device::cpu()));
    test::expect_error([&] { check::num_tokens(tensor, "toy", Device::cuda()); },
                       "toy: `num_tokens` is on cpu, expected cuda:0");
    test::expect_error([&] { check::num_tokens(Tensor(&count, DType::i64, {1}), "toy", Device::cpu()); },
                       "toy: `num_tokens` has dtype i64, expected i32");
    test::expect_error([&] { check::num_tokens(Tensor(&count, DType::i32, {}), "toy", Device::cpu()); },
                       "toy: `num_tokens` is i32[], expected shape [1]");

    EXPECT_EQ(check::effective_tokens(64, Tensor()), 64);
    for (const auto& [given, effective] : {std::pair{5, 5}, {0, 0}, {-7, 0}, {64, 64}, {65, 64}}) {
        count = given;
        EXPECT_EQ(check::effective_tokens(64, tensor), effective);
    }
    count = std::numeric_limits<std::int32_t>::min();
    EXPECT_EQ(check::effective_tokens(64, tensor), 0);
}

TEST_F(Check, RangesAndDtypes) {
    EXPECT_NO_THROW(check::range("toy", "top_k", 1, 1, 8));
    EXPECT_NO_THROW(check::range("toy", "top_k", 8, 1, 8));
    test::expect_error([] { check::range("toy", "top_k", 9, 1, 8); }, "toy: `top_k` is 9, expected 1 to 8");
    test::expect_error([] { check::range("toy", "top_k", 0, 1, 8); }, "toy: `top_k` is 0, expected 1 to 8");
    test::expect_error([] { check::range("toy", "hidden", -3, 1, std::numeric_limits<std::int64_t>::max()); },
                       "toy: `hidden` is -3, expected at least 1");
    EXPECT_NO_THROW(check::dtype("toy", "out", DType::f16, {DType::bf16, DType::f16}));
    test::expect_error(
        [] {
            check::dtype("toy", "out", DType::i64, {DType::bf16, DType::f16});
        },
        "toy: `out` is i64, expected bf16 or f16");
}

TEST_F(Check, OverlapOfOutputAndInput) {
    const auto overlaps = [](const Tensor& out, const Tensor& in) {
        try {
            check::no_overlap(out, "out", in, "x", "toy");
            return false;
        } catch (const Error& error) {
            EXPECT_NE(std::string(error.what()).find("toy: `out` f32["), std::string::npos) << error.what();
            EXPECT_NE(std::string(error.what()).find("overlaps `x` f32["), std::string::npos) << error.what();
            return true;
        }
    };
    const auto part = [&](std::int64_t first, std::int64_t count, Device device = {}) {
        return Tensor(memory.data() + first, DType::f32, {count}, device);
    };
    EXPECT_TRUE(overlaps(part(0, 8), part(0, 8)));
    EXPECT_TRUE(overlaps(part(0, 8), part(7, 8)));
    EXPECT_TRUE(overlaps(part(2, 2), part(0, 8)));
    EXPECT_FALSE(overlaps(part(0, 8), part(8, 8)));
    EXPECT_FALSE(overlaps(part(8, 8), part(0, 8)));
    EXPECT_FALSE(overlaps(part(0, 0), part(0, 8)));
    EXPECT_FALSE(overlaps(part(4, 0), part(0, 8)));
    EXPECT_FALSE(overlaps(Tensor(), part(0, 8)));
    EXPECT_FALSE(overlaps(part(0, 8), Tensor()));
    EXPECT_FALSE(overlaps(part(0, 8), part(0, 8, Device::cuda())));
    // The last element of a strided view counts.
    EXPECT_TRUE(overlaps(strided({3}, {10}), part(20, 1)));
    EXPECT_FALSE(overlaps(strided({3}, {10}), part(21, 1)));
}

TEST_F(Check, NothingSharesBytesWithOutputOrWorkspace) {
    const auto part = [&](std::int64_t first, std::int64_t count) {
        return Tensor(memory.data() + first, DType::f32, {count});
    };
    const Workspace workspace{memory.data() + 512, 512 * sizeof(float), Device::cpu()};
    const WorkspaceSize used{64 * sizeof(float), 256};
    const auto check = [&](const Tensor& out, const Tensor& first, const Tensor& second) {
        check::disjoint("toy", {"out", out}, {{"first", first}, {"second", second}}, workspace, used);
    };
    EXPECT_NO_THROW(check(part(0, 8), part(8, 8), part(16, 8)));
    EXPECT_NO_THROW(check(part(0, 8), Tensor(), part(8, 8)));
    EXPECT_NO_THROW(check(Tensor(), part(0, 8), part(0, 8)));                  // inputs may be the same
    EXPECT_NO_THROW(check(part(512 + 64, 8), part(8, 8), part(512 + 72, 8)));  // of the workspace, but not used
    const auto refuses = [&](const Tensor& out, const Tensor& first, const Tensor& second, const char* text) {
        test::expect_error([&] { check(out, first, second); }, ErrorCode::invalid_argument, {"toy: ", text});
    };
    refuses(part(0, 8), part(8, 8), part(7, 8), "overlaps `second`");
    refuses(part(512 + 63, 8), part(8, 8), part(16, 8), "overlaps `workspace`");
    refuses(part(0, 8), part(512, 1), part(16, 8), "`workspace` u8[256] overlaps `first`");
}

}  // namespace
}  // namespace tokamak
