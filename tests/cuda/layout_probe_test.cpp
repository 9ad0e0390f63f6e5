// SPDX-License-Identifier: Apache-2.0
// The probe's product of packed 4-bit weights against the float64 product of what the CPU decodes from the same bytes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "formats/scalar.h"
#include "layout_probe/variants.h"
#include "tokamak/tensor.h"
#include "tokamak/weight_format.h"

namespace tokamak {
namespace {

using cuda::probe::ProbeVariant;

/// A matrix in checkpoint layout: random codes of every value, scales around 2^-6.
struct Source {
    WeightSpec spec;
    std::vector<std::uint32_t> values;
    std::vector<std::uint16_t> scales;
    WeightMatrix matrix;

    Source(WeightFormat format, std::int64_t rows, std::int64_t cols, unsigned seed) {
        std::mt19937 random(seed);
        spec = format == WeightFormat::int4 ? WeightSpec::int4(32) : WeightSpec::mxfp4();
        values.resize(static_cast<std::size_t>(rows * cols / 8));
        for (std::uint32_t& word : values) word = random();
        const std::int64_t groups = cols / 32;
        scales.resize(static_cast<std::size_t>(rows * groups));
        if (format == WeightFormat::int4) {
            for (std::uint16_t& scale : scales)
                scale = scalar::float_to_bf16(0.01F + static_cast<float>(random() % 1000) * 1e-5F);
            matrix = {spec, rows, cols, Tensor(values.data(), DType::i32, {rows, cols / 8}),
                      Tensor(scales.data(), DType::bf16, {rows, groups})};
        } else {
            auto* bytes = reinterpret_cast<std::uint8_t*>(scales.data());
            for (std::int64_t i = 0; i < rows * groups; ++i) bytes[i] = static_cast<std::uint8_t>(117 + random() % 8);
            bytes[0] = 0xFF;  // such a group is zero
            bytes[1] = 0;
            matrix = {spec, rows, cols, Tensor(values.data(), DType::u4x2, {rows, cols / 2}),
                      Tensor(bytes, DType::e8m0, {rows, groups})};
        }
    }
};

class LayoutProbe : public testing::TestWithParam<std::size_t> {};

TEST_P(LayoutProbe, MatchesTheFloat64Product) {
    TOKAMAK_REQUIRE_GPU();
    const ProbeVariant& variant = cuda::probe::variants()[GetParam()];
    if (!variant.multiplies) GTEST_SKIP() << "streams only";
    for (const std::int64_t cols : {64, 192, 2880, 7168}) {
        const std::int64_t rows = 64 * 3;
        const DeviceInfo& info = device_info(Device::cuda());
        if (static_cast<std::size_t>(variant.shared_bytes(static_cast<int>(cols))) > info.shared_memory_bytes) continue;
        if (cols / 64 % variant.slot_tiles != 0) continue;
        const Source source(variant.format, rows, cols, static_cast<unsigned>(cols));
        const PackedLayout layout = PackedLayout::make(source.spec, rows, cols, false);
        ASSERT_EQ(layout.tile_bytes, static_cast<std::size_t>(variant.tile_bytes));
        std::vector<std::byte> packed(layout.matrix_bytes);
        pack(layout, source.matrix, RowOrder::plain, packed);

        std::mt19937 random(5);
        std::normal_distribution<float> normal;
        std::vector<std::uint16_t> x(static_cast<std::size_t>(8 * cols));
        for (std::uint16_t& value : x) value = scalar::float_to_bf16(normal(random));

        const auto packed_bytes = static_cast<std::int64_t>(packed.size());
        const OwnedTensor weights =
            OwnedTensor::copy_of(Tensor(packed.data(), DType::u8, {packed_bytes}), Device::cuda());
        const OwnedTensor tokens = OwnedTensor::copy_of(Tensor(x.data(), DType::bf16, {8, cols}), Device::cuda());
        const OwnedTensor out = OwnedTensor::allocate(DType::f32, {rows, 8}, Device::cuda());
        fill_bytes(out.view().data, Device::cuda(), 0xFF, out.view().bytes());
        const cuda::OwnedStream stream;
        synchronize(Device::cuda());
        variant.launch({weights.as<std::uint8_t>(), tokens.view().data, out.as<float>(),
                        static_cast<int>(layout.strips), static_cast<int>(layout.strips),
                        static_cast<int>(layout.tiles), 2, stream.stream()});
        synchronize(Device::cuda(), stream.stream());
        const OwnedTensor result = OwnedTensor::copy_of(out);

        std::vector<float> row(static_cast<std::size_t>(cols));
        for (std::int64_t r = 0; r < rows; ++r) {
            decode_packed_row(layout, packed, r, 0, cols, row.data());
            for (int token = 0; token < 8; ++token) {
                double sum = 0.0;
                double magnitude = 0.0;
                for (std::int64_t k = 0; k < cols; ++k) {
                    const double product = static_cast<double>(row[static_cast<std::size_t>(k)]) *
                                           scalar::bf16_to_float(x[static_cast<std::size_t>(token * cols + k)]);
                    sum += product;
                    magnitude += std::fabs(product);
                }
                // f32 sums of exact products: the error is a few roundings of the sum of magnitudes. The zero point of
                // int4 is summed separately, which costs up to 8 / 3 of that.
                ASSERT_NEAR(result.as<float>()[r * 8 + token], sum, 4e-6 * magnitude + 1e-30)
                    << variant.name << " cols " << cols << " row " << r << " token " << token;
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Variants, LayoutProbe, testing::Range(std::size_t{0}, cuda::probe::variants().size()),
                         [](const auto& info) { return std::string(cuda::probe::variants()[info.param].name); });

}  // namespace
}  // namespace tokamak
