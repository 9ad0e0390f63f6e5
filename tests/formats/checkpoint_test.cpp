// SPDX-License-Identifier: Apache-2.0
// Loading of each published layout against the tensors it was written from.
#include "tokamak/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "formats/decode.h"
#include "formats/scalar.h"
#include "formats/synthetic.h"
#include "support/temporary_folder.h"

namespace tokamak {
namespace {

using formats::make_synthetic_layer;
using formats::SyntheticLayer;
using formats::SyntheticTensors;
using test::TemporaryFolder;

const std::vector<SyntheticLayer> kLayers = {
    {CheckpointLayout::gpt_oss, 3, 3, 96, 64, 32, 1},
    {CheckpointLayout::gpt_oss, 0, 2, 64, 96, 32, 2},
    {CheckpointLayout::compressed_tensors, 1, 3, 96, 64, 32, 3},
    {CheckpointLayout::compressed_tensors, 10, 2, 192, 128, 64, 4},
    {CheckpointLayout::compressed_tensors, 2, 2, 256, 384, 128, 5},
    {CheckpointLayout::deepseek_fp8, 60, 3, 200, 161, 0, 6},
    {CheckpointLayout::bf16, 7, 3, 100, 33, 0, 7},
};

std::string text_of(const SyntheticLayer& layer) {
    return std::string(to_string(layer.layout)) + " " + std::to_string(layer.hidden) + " x " +
           std::to_string(layer.intermediate);
}

const Tensor& named(const SyntheticTensors& made, const std::string& ending) {
    const auto found = std::find_if(made.tensors.begin(), made.tensors.end(),
                                    [&](const NamedTensor& t) { return t.name.ends_with(ending); });
    if (found == made.tensors.end()) throw std::runtime_error("no tensor " + ending);
    return found->tensor;
}

/// The matrix of one projection as the file holds it.
WeightMatrix matrix_of(const SyntheticTensors& made, const SyntheticLayer& layer, std::int64_t expert,
                       const std::string& projection) {
    if (layer.layout == CheckpointLayout::gpt_oss) {
        const Tensor blocks = named(made, projection + "_blocks").at(expert);
        const std::int64_t rows = blocks.size(0), cols = blocks.size(1) * 32;
        return {WeightSpec::mxfp4(), rows, cols, blocks.reshape({rows, cols / 2}),
                named(made, projection + "_scales").at(expert)};
    }
    const std::string name = "experts." + std::to_string(expert) + "." + projection + ".weight";
    switch (layer.layout) {
        case CheckpointLayout::compressed_tensors: {
            const Tensor& packed = named(made, name + "_packed");
            return {WeightSpec::int4(layer.group_size), packed.size(0), packed.size(1) * 8, packed,
                    named(made, name + "_scale")};
        }
        case CheckpointLayout::deepseek_fp8: {
            const Tensor& values = named(made, name);
            return {WeightSpec::fp8_block(), values.size(0), values.size(1), values, named(made, name + "_scale_inv")};
        }
        default: {
            const Tensor& values = named(made, name);
            return {WeightSpec::bf16(), values.size(0), values.size(1), values, {}};
        }
    }
}

/// Expects packed row `row` to decode to row `source_row` of the matrix.
void expect_row(const PackedLayout& layout, const Tensor& packed, std::int64_t row, const WeightMatrix& matrix,
                std::int64_t source_row) {
    std::vector<float> expected(static_cast<std::size_t>(matrix.cols)), got(expected.size(), -99.0F);
    formats::decode_row(matrix, source_row, expected.data());
    decode_packed_row(layout, {packed.as<std::byte>(), packed.bytes()}, packed_row(layout, row), 0, matrix.cols,
                      got.data());
    ASSERT_EQ(got, expected) << "row " << row;
}

void expect_expert(const PackedExperts& loaded, std::int64_t index, const SyntheticTensors& made,
                   const SyntheticLayer& layer, std::int64_t expert) {
    const bool gpt_oss = layer.layout == CheckpointLayout::gpt_oss;
    const std::int64_t half = layer.intermediate;
    const Tensor gate_up = loaded.gate_up.view().at(index), down = loaded.down.view().at(index);
    const WeightMatrix gate = matrix_of(made, layer, expert, gpt_oss ? "gate_up_proj" : "gate_proj");
    const WeightMatrix up = gpt_oss ? gate : matrix_of(made, layer, expert, "up_proj");
    for (std::int64_t i = 0; i < half; ++i) {
        expect_row(loaded.gate_up_layout, gate_up, i, gate, gpt_oss ? 2 * i : i);
        expect_row(loaded.gate_up_layout, gate_up, half + i, up, gpt_oss ? 2 * i + 1 : i);
    }
    const WeightMatrix down_source = matrix_of(made, layer, expert, "down_proj");
    for (std::int64_t row = 0; row < layer.hidden; ++row) expect_row(loaded.down_layout, down, row, down_source, row);
    if (!gpt_oss) return;
    const auto* bias = named(made, "gate_up_proj_bias").at(expert).as<std::uint16_t>();
    const auto* got = loaded.gate_up_bias.view().at(index).as<std::uint16_t>();
    for (std::int64_t i = 0; i < half; ++i) {
        ASSERT_EQ(got[i], bias[2 * i]);
        ASSERT_EQ(got[half + i], bias[2 * i + 1]);
    }
    ASSERT_EQ(std::memcmp(loaded.down_bias.view().at(index).data, named(made, "down_proj_bias").at(expert).data,
                          static_cast<std::size_t>(2 * layer.hidden)),
              0);
}

void expect_same(const Tensor& got, const Tensor& expected) {
    ASSERT_EQ(to_string(got), to_string(expected));
    EXPECT_EQ(std::memcmp(got.data, expected.data, got.bytes()), 0);
}

void expect_layer(const PackedExperts& loaded, const SyntheticTensors& made, const SyntheticLayer& layer,
                  std::int64_t first, std::int64_t count) {
    EXPECT_EQ(loaded.source, layer.layout);
    EXPECT_EQ(loaded.num_experts, count);
    EXPECT_EQ(loaded.hidden, layer.hidden);
    EXPECT_EQ(loaded.intermediate, layer.intermediate);
    EXPECT_EQ(loaded.gate_up_layout, PackedLayout::make(loaded.spec, 2 * layer.intermediate, layer.hidden, true));
    EXPECT_EQ(loaded.down_layout, PackedLayout::make(loaded.spec, layer.hidden, layer.intermediate, false));
    for (std::int64_t i = 0; i < count; ++i) expect_expert(loaded, i, made, layer, first + i);
    const bool gpt_oss = layer.layout == CheckpointLayout::gpt_oss;
    EXPECT_EQ(loaded.gate_up_bias.view().present, gpt_oss);
    EXPECT_EQ(loaded.down_bias.view().present, gpt_oss);
    expect_same(loaded.router_weight, named(made, gpt_oss ? "mlp.router.weight" : "mlp.gate.weight"));
    EXPECT_EQ(loaded.router_bias.view().present, layer.layout != CheckpointLayout::bf16);
    if (loaded.router_bias.view().present)
        expect_same(loaded.router_bias, named(made, gpt_oss ? "mlp.router.bias" : "e_score_correction_bias"));
}

TEST(Checkpoint, EveryLayoutLoads) {
    const TemporaryFolder folder;
    for (const SyntheticLayer& layer : kLayers) {
        SCOPED_TRACE(text_of(layer));
        const SyntheticTensors made = make_synthetic_layer(layer);
        write_safetensors(folder.file("t"), made.tensors);
        const auto file = SafetensorsFile::open(folder.file("t"));
        EXPECT_EQ(recognise_layer(file, layer.layer), layer.layout);
        EXPECT_EQ(recognise_layer(file, layer.layer + 1), std::nullopt);
        expect_layer(load_experts(file, layer.layer), made, layer, 0, layer.experts);
        expect_layer(load_experts(file, layer.layer, 1), made, layer, 1, layer.experts - 1);
        expect_layer(load_experts(file, layer.layer, 1, 1), made, layer, 1, 1);
    }
}

TEST(Checkpoint, UnalignedDataAndNamesWithoutThePrefix) {
    const TemporaryFolder folder;
    for (const SyntheticLayer& layer : kLayers) {
        SCOPED_TRACE(text_of(layer));
        const SyntheticTensors made = make_synthetic_layer(layer);
        std::vector<NamedTensor> tensors = made.tensors;
        for (NamedTensor& tensor : tensors) tensor.name = tensor.name.substr(std::string("model.").size());
        const char odd[] = "odd";
        tensors.insert(tensors.begin(), {"odd", Tensor(odd, DType::u8, {3})});
        write_safetensors(folder.file("t"), tensors);
        const auto file = SafetensorsFile::open(folder.file("t"));
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor(tensors[1].name).data) % 2, 1U);
        expect_layer(load_experts(file, layer.layer), made, layer, 0, layer.experts);
    }
}

TEST(Checkpoint, LayersOfOneFileAreKeptApart) {
    const TemporaryFolder folder;
    SyntheticLayer one = kLayers[2], two = kLayers[5];
    one.layer = 1;
    two.layer = 11;
    const SyntheticTensors a = make_synthetic_layer(one), b = make_synthetic_layer(two);
    std::vector<NamedTensor> all = a.tensors;
    all.insert(all.end(), b.tensors.begin(), b.tensors.end());
    write_safetensors(folder.file("t"), all);
    const auto file = SafetensorsFile::open(folder.file("t"));
    expect_layer(load_experts(file, 1), a, one, 0, one.experts);
    expect_layer(load_experts(file, 11), b, two, 0, two.experts);
}

TEST(Checkpoint, ExpertsOfAShard) {
    const TemporaryFolder folder;
    const SyntheticLayer layer = kLayers[6];
    const SyntheticTensors made = make_synthetic_layer(layer);
    std::vector<NamedTensor> tensors;
    for (const NamedTensor& tensor : made.tensors)
        if (tensor.name.find("experts.0.") == std::string::npos) tensors.push_back(tensor);
    write_safetensors(folder.file("t"), tensors);
    expect_layer(load_experts(SafetensorsFile::open(folder.file("t")), layer.layer, 1), made, layer, 1, 2);
}

TEST(Checkpoint, F16ScalesAndI64ShapesOfCompressedTensors) {
    const TemporaryFolder folder;
    const SyntheticLayer layer = kLayers[2];
    SyntheticTensors made = make_synthetic_layer(layer);
    std::vector<std::vector<std::int64_t>> shapes;
    shapes.reserve(made.tensors.size());
    for (auto& [name, tensor] : made.tensors) {
        if (name.ends_with("weight_scale")) tensor.dtype = DType::f16;
        if (!name.ends_with("weight_shape")) continue;
        shapes.push_back({tensor.as<std::int32_t>()[0], tensor.as<std::int32_t>()[1]});
        tensor = Tensor(shapes.back().data(), DType::i64, {2});
    }
    write_safetensors(folder.file("t"), made.tensors);
    const PackedExperts loaded = load_experts(SafetensorsFile::open(folder.file("t")), layer.layer);
    EXPECT_EQ(to_string(loaded.spec), "int4_g32_f16");
    const WeightMatrix down = [&] {
        WeightMatrix matrix = matrix_of(made, layer, 0, "down_proj");
        matrix.spec = loaded.spec;
        return matrix;
    }();
    expect_row(loaded.down_layout, loaded.down.view().at(0), 5, down, 5);
}

TEST(Synthetic, SameArgumentsSameBitsOtherSeedOtherBits) {
    for (SyntheticLayer layer : kLayers) {
        const SyntheticTensors a = make_synthetic_layer(layer), b = make_synthetic_layer(layer);
        layer.seed += 1;
        const SyntheticTensors c = make_synthetic_layer(layer);
        for (std::size_t i = 0; i < a.tensors.size(); ++i) {
            const Tensor& tensor = a.tensors[i].tensor;
            EXPECT_EQ(std::memcmp(tensor.data, b.tensors[i].tensor.data, tensor.bytes()), 0);
            if (a.tensors[i].name.ends_with("weight_shape")) continue;
            EXPECT_NE(std::memcmp(tensor.data, c.tensors[i].tensor.data, tensor.bytes()), 0) << a.tensors[i].name;
        }
    }
}

/// Activations of order one must give outputs of order one, in every layout and projection.
TEST(Synthetic, RowsHaveUnitNorm) {
    const std::vector<SyntheticLayer> layers = {{CheckpointLayout::gpt_oss, 0, 2, 512, 256, 32, 11},
                                                {CheckpointLayout::compressed_tensors, 0, 2, 512, 256, 128, 12},
                                                {CheckpointLayout::deepseek_fp8, 0, 2, 512, 256, 0, 13},
                                                {CheckpointLayout::bf16, 0, 2, 512, 256, 0, 14}};
    for (const SyntheticLayer& layer : layers) {
        SCOPED_TRACE(text_of(layer));
        const SyntheticTensors made = make_synthetic_layer(layer);
        for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
            const bool fused = layer.layout == CheckpointLayout::gpt_oss && projection[0] != 'd';
            const WeightMatrix matrix = matrix_of(made, layer, 1, fused ? "gate_up_proj" : projection);
            std::vector<float> row(static_cast<std::size_t>(matrix.cols));
            double squares = 0.0, sum = 0.0;
            for (std::int64_t r = 0; r < matrix.rows; ++r) {
                formats::decode_row(matrix, r, row.data());
                for (const float value : row) {
                    squares += static_cast<double>(value) * value;
                    sum += value;
                }
            }
            ASSERT_TRUE(std::isfinite(squares));
            EXPECT_GT(squares / static_cast<double>(matrix.rows), 0.5);
            EXPECT_LT(squares / static_cast<double>(matrix.rows), 2.0);
            const auto elements = static_cast<double>(matrix.rows * matrix.cols);
            EXPECT_LT(std::fabs(sum / elements), 0.1 * std::sqrt(squares / elements)) << "weights are not centred";
        }
    }
}

}  // namespace
}  // namespace tokamak
