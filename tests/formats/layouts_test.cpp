// SPDX-License-Identifier: Apache-2.0
// Every layout with numbered experts against definitions written out here, on random bits, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "formats/matrix.h"
#include "formats/scalar.h"
#include "formats/synthetic.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"
#include "tokamak/checkpoint.h"

namespace tokamak {
namespace {

using formats::make_synthetic_layer;
using formats::SyntheticLayer;
using formats::SyntheticTensors;
using test::expect_error;
using test::load;

/// A written layer whose tensors tests may change first.
class Layouts : public testing::Test {
  protected:
    static Tensor& named(SyntheticTensors& made, const std::string& ending) {
        for (NamedTensor& tensor : made.tensors)
            if (tensor.name.ends_with(ending)) return tensor.tensor;
        throw std::runtime_error("no tensor " + ending);
    }
    static const std::uint8_t* bytes_of(SyntheticTensors& made, const std::string& ending) {
        return named(made, ending).as<std::uint8_t>();
    }
    SafetensorsFile written(const SyntheticTensors& made) const {
        write_safetensors(folder_.file("t"), made.tensors);
        return SafetensorsFile::open(folder_.file("t"));
    }
    void refuse(const SyntheticTensors& made, std::initializer_list<std::string> texts,
                GptqZeros zeros = GptqZeros::minus_one) const {
        const auto file = written(made);
        expect_error([&] { (void)load_experts(file, 0, 0, -1, zeros); }, ErrorCode::parse, texts);
    }

    /// weight(name of the projection's tensors up to the dot, row, column, columns).
    using Definition = std::function<float(const std::string&, std::int64_t, std::int64_t, std::int64_t)>;

    void expect_layer(const SyntheticLayer& layer, SyntheticTensors& made, const WeightSpec& spec,
                      const Definition& weight, GptqZeros zeros = GptqZeros::minus_one) const {
        const auto file = written(made);
        EXPECT_EQ(recognise_layer(file, 0), layer.layout);
        const PackedExperts loaded = load_experts(file, 0, 0, -1, zeros);
        EXPECT_EQ(to_string(loaded.spec), to_string(spec));
        ASSERT_EQ(loaded.hidden, layer.hidden);
        ASSERT_EQ(loaded.intermediate, layer.intermediate);
        const bool own_names = layer.layout == CheckpointLayout::deepseek_v4;
        for (std::int64_t e = 0; e < layer.experts; ++e) {
            const std::string expert = "experts." + std::to_string(e) + ".";
            const auto expect_rows = [&](const PackedLayout& layout, const Tensor& packed, const char* projection,
                                         std::int64_t first, std::int64_t rows) {
                std::vector<float> row(static_cast<std::size_t>(layout.cols));
                for (std::int64_t r = 0; r < rows; ++r) {
                    decode_packed_row(layout, {packed.as<std::byte>(), packed.bytes()}, packed_row(layout, first + r),
                                      0, layout.cols, row.data());
                    for (std::int64_t c = 0; c < layout.cols; ++c)
                        ASSERT_EQ(row[static_cast<std::size_t>(c)], weight(expert + projection, r, c, layout.cols))
                            << expert << projection << " row " << r << " column " << c;
                }
            };
            const Tensor gate_up = loaded.gate_up.view().at(e), down = loaded.down.view().at(e);
            expect_rows(loaded.gate_up_layout, gate_up, own_names ? "w1." : "gate_proj.", 0, layer.intermediate);
            expect_rows(loaded.gate_up_layout, gate_up, own_names ? "w3." : "up_proj.", layer.intermediate,
                        layer.intermediate);
            expect_rows(loaded.down_layout, down, own_names ? "w2." : "down_proj.", 0, layer.hidden);
        }
    }

    static float e2m1(const std::uint8_t* bytes, std::int64_t row, std::int64_t col, std::int64_t cols) {
        return scalar::e2m1_to_float(bytes[row * cols / 2 + col / 2] >> (col % 2 * 4) & 15);
    }

    test::TemporaryFolder folder_;
};

TEST_F(Layouts, Fp8WithOneScale) {
    for (const DType type : {DType::f32, DType::bf16})
        for (const int rank : {0, 1, 2}) {
            const SyntheticLayer layer{CheckpointLayout::fp8, 0, 2, 200, 161, 0, 21};
            SyntheticTensors made = make_synthetic_layer(layer);
            const std::vector<std::int64_t> shape(static_cast<std::size_t>(rank), 1);
            for (NamedTensor& tensor : made.tensors)
                if (tensor.name.ends_with("weight_scale"))
                    tensor.tensor = Tensor(tensor.tensor.as<std::byte>() + (type == DType::bf16 ? 2 : 0), type, shape);
            expect_layer(layer, made, WeightSpec::fp8_block(),
                         [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                             const std::uint8_t* scale = bytes_of(made, name + "weight_scale");
                             return scalar::e4m3_to_float(bytes_of(made, name + "weight")[row * cols + col]) *
                                    (type == DType::f32 ? load<float>(scale)
                                                        : scalar::bf16_to_float(load<std::uint16_t>(scale)));
                         });
        }
}

TEST_F(Layouts, Fp8WithBlocksOfCompressedTensors) {
    SyntheticLayer layer{CheckpointLayout::deepseek_fp8, 0, 2, 200, 161, 0, 22};
    SyntheticTensors made = make_synthetic_layer(layer);
    for (NamedTensor& tensor : made.tensors)
        if (tensor.name.ends_with("_inv")) tensor.name.resize(tensor.name.size() - 4);
    layer.layout = CheckpointLayout::fp8;
    expect_layer(layer, made, WeightSpec::fp8_block(),
                 [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                     const std::int64_t block = row / 128 * ((cols + 127) / 128) + col / 128;
                     return scalar::e4m3_to_float(bytes_of(made, name + "weight")[row * cols + col]) *
                            load<float>(bytes_of(made, name + "weight_scale") + 4 * block);
                 });
}

TEST_F(Layouts, Fp8ScalesOfRowsAreRefused) {
    SyntheticTensors made = make_synthetic_layer({CheckpointLayout::fp8, 0, 1, 200, 161, 0, 23});
    const std::vector<float> scales(161, 1.0F);
    named(made, "up_proj.weight_scale") = Tensor(scales.data(), DType::f32, {161, 1});
    refuse(made, {"up_proj.weight_scale", "f32[161, 1]", "scales of whole rows"});
}

TEST_F(Layouts, DeepseekV4Mxfp4) {
    const SyntheticLayer layer{CheckpointLayout::deepseek_v4, 0, 3, 96, 64, 0, 24};
    SyntheticTensors made = make_synthetic_layer(layer);
    expect_layer(layer, made, WeightSpec::mxfp4(),
                 [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                     return e2m1(bytes_of(made, name + "weight"), row, col, cols) *
                            scalar::e8m0_to_float(bytes_of(made, name + "scale")[row * cols / 32 + col / 32]);
                 });
    const PackedExperts loaded = load_experts(written(made), 0);
    EXPECT_EQ(to_string(loaded.router_weight.view()), "bf16[3, 96]");
    EXPECT_EQ(to_string(loaded.router_bias.view()), "f32[3]");
}

/// DeepSeek-V4's base models: fp8 blocks under the short names.
TEST_F(Layouts, DeepseekV4Fp8) {
    SyntheticLayer layer{CheckpointLayout::deepseek_fp8, 0, 2, 200, 161, 0, 25};
    SyntheticTensors made = make_synthetic_layer(layer);
    const auto rename = [](std::string& name, const std::string& from, const std::string& to) {
        if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    };
    for (NamedTensor& tensor : made.tensors) {
        rename(tensor.name, "mlp.", "ffn.");
        rename(tensor.name, "gate_proj", "w1");
        rename(tensor.name, "up_proj", "w3");
        rename(tensor.name, "down_proj", "w2");
        rename(tensor.name, "weight_scale_inv", "scale");
    }
    layer.layout = CheckpointLayout::deepseek_v4;
    expect_layer(layer, made, WeightSpec::fp8_block(),
                 [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                     const std::int64_t block = row / 128 * ((cols + 127) / 128) + col / 128;
                     return scalar::e4m3_to_float(bytes_of(made, name + "weight")[row * cols + col]) *
                            load<float>(bytes_of(made, name + "scale") + 4 * block);
                 });
}

TEST_F(Layouts, Nvfp4OfBothWriters) {
    for (const CheckpointLayout writer :
         {CheckpointLayout::modelopt_nvfp4, CheckpointLayout::compressed_tensors_nvfp4}) {
        SCOPED_TRACE(to_string(writer));
        const bool modelopt = writer == CheckpointLayout::modelopt_nvfp4;
        const SyntheticLayer layer{writer, 0, 2, 80, 48, 0, 26};
        SyntheticTensors made = make_synthetic_layer(layer);
        const std::string global = modelopt ? "weight_scale_2" : "weight_global_scale";
        EXPECT_NE(load<float>(bytes_of(made, "experts.0.gate_proj." + global)),
                  load<float>(bytes_of(made, "experts.0.up_proj." + global)));
        // What kernels do not use may lie beside it.
        const float input = 1.0F;
        made.tensors.push_back({"model.layers.0.mlp.experts.0.up_proj.input_scale", Tensor(&input, DType::f32, {})});
        expect_layer(
            layer, made, WeightSpec::nvfp4(),
            [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                const auto stored = load<float>(bytes_of(made, name + global));
                return e2m1(bytes_of(made, name + (modelopt ? "weight" : "weight_packed")), row, col, cols) *
                       scalar::e4m3_to_float(bytes_of(made, name + "weight_scale")[row * cols / 16 + col / 16]) *
                       (modelopt ? stored : 1.0F / stored);
            });
    }
}

TEST_F(Layouts, GlobalScalesWithoutReciprocalAreRefused) {
    for (const float scale : {0.0F, 1e-39F, INFINITY, NAN}) {
        SyntheticTensors made = make_synthetic_layer({CheckpointLayout::compressed_tensors_nvfp4, 0, 1, 80, 48, 0, 27});
        *named(made, "up_proj.weight_global_scale").as<float>() = scale;
        refuse(made, {"up_proj.weight_global_scale", "no reciprocal"});
    }
}

std::uint32_t nibble(const std::uint8_t* words, std::int64_t word, std::int64_t index) {
    return load<std::uint32_t>(words + 4 * word) >> (4 * index) & 15U;
}

/// Row 8w+r of an AWQ matrix is nibble awq_nibble(r) of word w.
std::int64_t awq_nibble(std::int64_t row) { return row % 2 * 4 + row % 8 / 2; }

float awq_weight(const std::uint8_t* words, const std::uint8_t* zeros, const std::uint8_t* scales, std::int64_t rows,
                 std::int64_t row, std::int64_t col) {
    const auto code = static_cast<int>(nibble(words, col * rows / 8 + row / 8, awq_nibble(row)));
    const auto zero = static_cast<int>(nibble(zeros, col / 32 * rows / 8 + row / 8, awq_nibble(row)));
    return static_cast<float>(code - zero) *
           scalar::f16_to_float(load<std::uint16_t>(scales + 2 * (col / 32 * rows + row)));
}

float gptq_weight(const std::uint8_t* words, const std::uint8_t* zeros, const std::uint8_t* scales, std::int64_t rows,
                  std::int64_t row, std::int64_t col, int added) {
    const auto code = static_cast<int>(nibble(words, col / 8 * rows + row, col % 8));
    const auto zero = static_cast<int>(nibble(zeros, col / 32 * rows / 8 + row / 8, row % 8)) + added;
    return static_cast<float>(code - zero) *
           scalar::f16_to_float(load<std::uint16_t>(scales + 2 * (col / 32 * rows + row)));
}

/// Narrows all codes to 4 to 11, so that zero points 4 to 12 leave nothing beyond -8 to 7, and draws such zero points.
void draw_zero_points(SyntheticTensors& made, int least, int most) {
    for (NamedTensor& tensor : made.tensors) {
        const bool words = tensor.name.ends_with("qweight");
        if (!words && !tensor.name.ends_with("qzeros")) continue;
        auto* const bytes = tensor.tensor.as<std::uint8_t>();
        for (std::size_t i = 0; i < tensor.tensor.bytes(); ++i) {
            const auto draw = [&] {
                const auto range = static_cast<std::uint64_t>(words ? 8 : most - least + 1);
                return static_cast<std::uint8_t>(test::random_bits()() % range +
                                                 static_cast<unsigned>(words ? 4 : least));
            };
            const std::uint8_t low = draw();
            bytes[i] = static_cast<std::uint8_t>(low | draw() << 4);
        }
    }
}

std::int64_t rows_of(const SyntheticLayer& layer, std::int64_t cols) {
    return cols == layer.hidden ? layer.intermediate : layer.hidden;
}

TEST_F(Layouts, AwqWithZeroPoints) {
    const SyntheticLayer layer{CheckpointLayout::awq, 0, 2, 96, 64, 32, 28};
    SyntheticTensors made = make_synthetic_layer(layer);
    for (const bool asymmetric : {false, true}) {
        if (asymmetric) draw_zero_points(made, 4, 12);
        expect_layer(layer, made, WeightSpec::int4(32, DType::f16),
                     [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                         return awq_weight(bytes_of(made, name + "qweight"), bytes_of(made, name + "qzeros"),
                                           bytes_of(made, name + "scales"), rows_of(layer, cols), row, col);
                     });
    }
}

TEST_F(Layouts, GptqOfBothVersions) {
    const SyntheticLayer layer{CheckpointLayout::gptq, 0, 2, 96, 64, 32, 29};
    SyntheticTensors made = make_synthetic_layer(layer);
    const auto expect = [&](GptqZeros zeros) {
        expect_layer(
            layer, made, WeightSpec::int4(32, DType::f16),
            [&](const std::string& name, std::int64_t row, std::int64_t col, std::int64_t cols) {
                return gptq_weight(bytes_of(made, name + "qweight"), bytes_of(made, name + "qzeros"),
                                   bytes_of(made, name + "scales"), rows_of(layer, cols), row, col,
                                   zeros == GptqZeros::minus_one ? 1 : 0);
            },
            zeros);
    };
    expect(GptqZeros::minus_one);
    draw_zero_points(made, 3, 11);
    expect(GptqZeros::minus_one);
    draw_zero_points(made, 4, 12);
    expect(GptqZeros::plain);
    // Without g_idx it is still told from AWQ, by its shapes.
    std::erase_if(made.tensors, [](const NamedTensor& t) { return t.name.ends_with("g_idx"); });
    expect(GptqZeros::plain);
}

TEST_F(Layouts, GptqWithBf16ScalesAndLargerGroups) {
    for (const int group : {64, 128}) {
        const SyntheticLayer layer{CheckpointLayout::gptq, 0, 1, 256, 128, group, 30};
        SyntheticTensors made = make_synthetic_layer(layer);
        for (NamedTensor& tensor : made.tensors)
            if (tensor.name.ends_with("scales")) tensor.tensor.dtype = DType::bf16;
        EXPECT_EQ(load_experts(written(made), 0).spec, WeightSpec::int4(group, DType::bf16));
    }
}

TEST_F(Layouts, ZeroPointsThatCannotBeFoldedAreRefused) {
    for (const CheckpointLayout layout : {CheckpointLayout::awq, CheckpointLayout::gptq}) {
        const bool awq = layout == CheckpointLayout::awq;
        SyntheticTensors made = make_synthetic_layer({layout, 0, 1, 96, 64, 32, 31});
        draw_zero_points(made, awq ? 8 : 7, awq ? 8 : 7);
        // Output 17, group 1 of the up projection: zero point 4; its input 40 has code 15, worth 11.
        auto* const zeros = named(made, "up_proj.qzeros").as<std::uint32_t>();
        const std::int64_t place = awq ? awq_nibble(17) : 1;
        zeros[1 * 8 + 2] = (zeros[1 * 8 + 2] & ~(15U << 4 * place)) | (awq ? 4U : 3U) << (4 * place);
        auto* const words = named(made, "up_proj.qweight").as<std::uint32_t>();
        std::uint32_t& word = awq ? words[40 * 8 + 2] : words[40 / 8 * 64 + 17];
        word |= 15U << 4 * (awq ? place : 40 % 8);
        refuse(made, {"up_proj.qweight", "output 17, input 40", "code 15 with zero point 4", "which is 11"});
    }
}

TEST_F(Layouts, GptqZeroPointsThatReadersDisagreeAboutAreRefused) {
    SyntheticTensors made = make_synthetic_layer({CheckpointLayout::gptq, 0, 1, 96, 64, 32, 32});
    named(made, "down_proj.qzeros").as<std::uint32_t>()[2] |= 15U << 8;
    refuse(made, {"down_proj.qweight", "output 18, group 0", "15", "16 or for 0"});
}

TEST_F(Layouts, GptqWithReorderedColumnsIsRefused) {
    SyntheticTensors made = make_synthetic_layer({CheckpointLayout::gptq, 0, 1, 96, 64, 32, 33});
    named(made, "gate_proj.g_idx").as<std::int32_t>()[33] = 0;
    refuse(made, {"gate_proj.g_idx", "input 33 into group 0, expected 1", "act-order"});
}

TEST_F(Layouts, OtherPrefixesAndNames) {
    const SyntheticLayer layer{CheckpointLayout::bf16, 0, 2, 24, 16, 0, 34};
    SyntheticTensors made = make_synthetic_layer(layer);
    const auto loads = [&](const SyntheticTensors& tensors) { return load_experts(written(tensors), 0).num_experts; };
    for (const char* root : {"layers.", "language_model.model.layers.", "model.language_model.layers."}) {
        SyntheticTensors moved = make_synthetic_layer(layer);
        for (NamedTensor& tensor : moved.tensors) tensor.name.replace(0, std::string("model.layers.").size(), root);
        EXPECT_EQ(loads(moved), 2) << root;
    }
    for (NamedTensor& tensor : made.tensors)
        for (const auto& [from, to] : {std::pair<std::string, std::string>{"mlp.", "block_sparse_moe."},
                                       {"gate_proj", "w1"},
                                       {"up_proj", "w3"},
                                       {"down_proj", "w2"}})
            if (const auto at = tensor.name.find(from); at != std::string::npos)
                tensor.name.replace(at, from.size(), to);
    EXPECT_EQ(loads(made), 2);
    EXPECT_TRUE(load_experts(written(made), 0).router_weight.view().present);
}

}  // namespace
}  // namespace tokamak
