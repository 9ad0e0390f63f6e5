// SPDX-License-Identifier: Apache-2.0
// Checkpoints that lack something or hold something else.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "formats/parallel.h"
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

const std::vector<SyntheticLayer> kLayers = {{CheckpointLayout::gpt_oss, 2, 3, 96, 64, 32, 1},
                                             {CheckpointLayout::compressed_tensors, 2, 3, 96, 64, 32, 3},
                                             {CheckpointLayout::deepseek_fp8, 2, 3, 200, 161, 0, 6},
                                             {CheckpointLayout::bf16, 2, 3, 100, 33, 0, 7},
                                             {CheckpointLayout::fp8, 2, 3, 200, 161, 0, 8},
                                             {CheckpointLayout::deepseek_v4, 2, 3, 96, 64, 0, 9},
                                             {CheckpointLayout::modelopt_nvfp4, 2, 3, 80, 48, 0, 10},
                                             {CheckpointLayout::compressed_tensors_nvfp4, 2, 3, 80, 48, 0, 11},
                                             {CheckpointLayout::awq, 2, 3, 96, 64, 32, 12},
                                             {CheckpointLayout::gptq, 2, 3, 96, 64, 32, 13}};

bool is_router(const std::string& name) { return name.find(".experts.") == std::string::npos; }
bool may_be_missing(const std::string& name) { return is_router(name) || name.ends_with("g_idx"); }

class WrongCheckpoint : public testing::Test {
  protected:
    SafetensorsFile written(const std::vector<NamedTensor>& tensors) {
        write_safetensors(folder_.file("t"), tensors);
        return SafetensorsFile::open(folder_.file("t"));
    }
    /// Expects loading layer 2 to fail with a parse error that names the file and every text.
    void refuse(const std::vector<NamedTensor>& tensors, std::initializer_list<std::string> texts) {
        const auto file = written(tensors);
        expect_error([&] { (void)load_experts(file, 2); }, ErrorCode::parse, texts);
        expect_error([&] { (void)load_experts(file, 2); }, ErrorCode::parse, {folder_.file("t")});
    }

    test::TemporaryFolder folder_;
};

TEST_F(WrongCheckpoint, EveryMissingTensorIsNamed) {
    for (const SyntheticLayer& layer : kLayers) {
        const SyntheticTensors made = make_synthetic_layer(layer);
        for (std::size_t i = 0; i < made.tensors.size(); ++i) {
            std::vector<NamedTensor> tensors = made.tensors;
            tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
            if (may_be_missing(made.tensors[i].name)) {
                EXPECT_EQ(load_experts(written(tensors), 2).num_experts, 3);
            } else {
                refuse(tensors, {"\"" + made.tensors[i].name + "\"", "is missing"});
            }
        }
    }
}

TEST_F(WrongCheckpoint, RouterTensorsThatAreMissingAreAbsent) {
    for (const SyntheticLayer& layer : kLayers) {
        const SyntheticTensors made = make_synthetic_layer(layer);
        std::vector<NamedTensor> tensors = made.tensors;
        std::erase_if(tensors, [](const NamedTensor& t) { return is_router(t.name); });
        const PackedExperts loaded = load_experts(written(tensors), 2);
        EXPECT_FALSE(loaded.router_weight.view().present);
        EXPECT_FALSE(loaded.router_bias.view().present);
    }
}

TEST_F(WrongCheckpoint, EveryWrongShapeIsNamed) {
    for (const SyntheticLayer& layer : kLayers) {
        const SyntheticTensors made = make_synthetic_layer(layer);
        for (std::size_t i = 0; i < made.tensors.size(); ++i) {
            std::vector<NamedTensor> tensors = made.tensors;
            Tensor& tensor = tensors[i].tensor;
            tensor =
                tensor.rank == 1 ? tensor.reshape({1, 1, tensor.elements()}) : tensor.reshape({1, tensor.elements()});
            refuse(tensors, {"layers.2.", "expected"});
        }
        // A row less, in a tensor that does not set the sizes.
        const auto last = std::find_if(made.tensors.rbegin(), made.tensors.rend(),
                                       [](const NamedTensor& t) { return !is_router(t.name) && t.tensor.rank > 1; });
        std::vector<NamedTensor> tensors = made.tensors;
        Tensor& tensor = tensors[static_cast<std::size_t>(made.tensors.rend() - last) - 1].tensor;
        const std::string before = to_string(tensor).substr(to_string(tensor).find('['));
        tensor = tensor.first_rows(tensor.size(0) - 1);
        refuse(tensors, {"\"" + last->name + "\"", to_string(tensor), "expected", before});
    }
}

TEST_F(WrongCheckpoint, EveryWrongTypeIsNamed) {
    for (const SyntheticLayer& layer : kLayers) {
        const SyntheticTensors made = make_synthetic_layer(layer);
        for (std::size_t i = 0; i < made.tensors.size(); ++i) {
            std::vector<NamedTensor> tensors = made.tensors;
            Tensor& tensor = tensors[i].tensor;
            const std::vector<double> wide(static_cast<std::size_t>(tensor.elements()));  // no layout has f64
            tensor =
                Tensor(wide.data(), DType::f64, std::span(tensor.shape).first(static_cast<std::size_t>(tensor.rank)));
            refuse(tensors, {"\"" + tensors[i].name + "\"", "f64", "expected"});
        }
    }
}

TEST_F(WrongCheckpoint, LayersWithoutExpertsOrInAnotherLayout) {
    const char bytes[256] = {};
    const Tensor some(bytes, DType::u8, {16, 16});
    refuse({}, {"layer 2"});
    refuse({{"model.layers.1.mlp.experts.0.gate_proj.weight", some}}, {"layer 2"});
    refuse({{"model.layers.2.mlp.experts.0.gate_proj.qweight", some}}, {"known layouts"});
    refuse({{"model.layers.2.mlp.experts.0.gate_proj.weight", some}}, {"known layouts"});
    refuse({{"model.layers.2.mlp.experts.gate_up_proj", some}}, {"known layouts"});
    refuse({{"model.layers.2.mlp.experts.0.gate_proj.weight", some},
            {"model.layers.2.mlp.experts.0.gate_proj.weight_scale", some}},
           {"known layouts"});
    for (const char* number : {"", "-1", "01", "x", "99999999999999999999", "1x"})
        refuse({{"model.layers.2.mlp.experts." + std::string(number) + ".gate_proj.weight_packed", some}},
               {"known layouts"});
    refuse({{"model.layers.2.mlp.experts.2147483647.gate_proj.weight_packed", some}},
           {"\"model.layers.2.mlp.experts.0.gate_proj.weight_packed\"", "missing"});
}

TEST_F(WrongCheckpoint, Int4DetailsThatAreNotSupported) {
    const SyntheticTensors made = make_synthetic_layer(kLayers[1]);
    const std::string linear = "model.layers.2.mlp.experts.1.up_proj.";
    const std::int32_t words[64] = {};
    for (const char* field : {"weight_zero_point", "weight_g_idx"}) {
        std::vector<NamedTensor> tensors = made.tensors;
        tensors.push_back({linear + field, Tensor(words, DType::i32, {64})});
        refuse(tensors, {linear + field, "not supported"});
    }
    std::vector<NamedTensor> tensors = made.tensors;
    const std::int32_t shape[2] = {64, 95};
    for (NamedTensor& named : tensors)
        if (named.name == linear + "weight_shape") named.tensor = Tensor(shape, DType::i32, {2});
    refuse(tensors, {linear + "weight_shape", "[64, 95]", "[64, 96]"});
    // Scales for groups of 16.
    tensors = made.tensors;
    const std::uint16_t scales[64 * 6] = {};
    for (NamedTensor& named : tensors)
        if (named.name.ends_with("experts.0.gate_proj.weight_scale"))
            named.tensor = Tensor(scales, DType::bf16, {64, 6});
    refuse(tensors, {"experts.0.gate_proj.weight_scale", "6 groups for 96 columns"});
}

TEST_F(WrongCheckpoint, RangesOutsideAreRefused) {
    for (const SyntheticLayer& layer : kLayers) {
        const SyntheticTensors made = make_synthetic_layer(layer);
        const auto file = written(made.tensors);
        expect_error([&] { (void)load_experts(file, 2, -1); }, "`first` is -1, expected 0 to 2");
        expect_error([&] { (void)load_experts(file, 2, 3); }, "`first` is 3");
        expect_error([&] { (void)load_experts(file, 2, 0, 4); }, "`count` is 4");
        expect_error([&] { (void)load_experts(file, 2, 2, 2); }, "`count` is 2");
        expect_error([&] { (void)load_experts(file, 2, 0, 0); }, "`count` is 0");
        expect_error([&] { (void)load_experts(file, 2, 0, -2); }, "`count` is -2");
        expect_error([&] { (void)load_experts(file, -2); }, "`layer` is -2");
        EXPECT_EQ(recognise_layer(file, -2), std::nullopt);
    }
}

TEST(Synthetic, SizesThatALayoutCannotHave) {
    expect_error([] { (void)make_synthetic_layer({CheckpointLayout::gpt_oss, 0, 1, 96, 65, 32, 0}); }, "65");
    expect_error([] { (void)make_synthetic_layer({CheckpointLayout::compressed_tensors, 0, 1, 96, 96, 64, 0}); }, "96");
    expect_error([] { (void)make_synthetic_layer({CheckpointLayout::bf16, 0, 0, 96, 64, 0, 0}); }, "`experts` is 0");
    expect_error([] { (void)make_synthetic_layer({CheckpointLayout::bf16, -1, 1, 96, 64, 0, 0}); }, "`layer` is -1");
    expect_error([] { (void)make_synthetic_layer({CheckpointLayout::deepseek_fp8, 0, 1, 0, 64, 0, 0}); }, "0");
}

TEST(ParallelFor, ThrowsTheExceptionOfTheLowestIndex) {
    std::vector<int> seen(100);
    try {
        formats::parallel_for(100, [&](std::int64_t i) {
            seen[static_cast<std::size_t>(i)] += 1;
            if (i % 30 == 17) throw std::runtime_error(std::to_string(i));
        });
        ADD_FAILURE() << "no exception";
    } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "17");
    }
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
}

}  // namespace
}  // namespace tokamak
