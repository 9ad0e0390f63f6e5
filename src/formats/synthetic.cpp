// SPDX-License-Identifier: Apache-2.0
#include "formats/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>

#include "core/throw.h"
#include "formats/packed_tile.h"
#include "formats/palette.h"
#include "formats/parallel.h"
#include "formats/scalar.h"

namespace tokamak::formats {
namespace {

std::uint16_t normal_bf16(RandomStream& random, double deviation) {
    return scalar::float_to_bf16(static_cast<float>(deviation * random.normal()));
}

/// How a quantiser spreads normal weights over the codes of a format: the code value of one standard deviation. Groups
/// then reach the largest code about as often as they do in real weights.
constexpr double kFp8Deviation = 100.0;
constexpr double kInt4Deviation = 2.5;
constexpr double kMxfp4Deviation = 2.0;

std::uint8_t draw_e4m3(RandomStream& random) {
    return scalar::float_to_e4m3(static_cast<float>(kFp8Deviation * random.normal()));  // saturates: never NaN
}

std::uint8_t draw_int4_pair(RandomStream& random) {
    const auto code = [&] {
        const auto value = std::lround(kInt4Deviation * random.normal());
        return static_cast<std::uint8_t>(std::clamp<long>(value, -8, 7) + 8);
    };
    const std::uint8_t low = code();
    return static_cast<std::uint8_t>(low | code() << 4);
}

std::uint8_t draw_mxfp4_pair(RandomStream& random) {
    const auto code = [&] { return scalar::float_to_e2m1(static_cast<float>(kMxfp4Deviation * random.normal())); };
    const std::uint8_t low = code();
    return static_cast<std::uint8_t>(low | code() << 4);
}

/// Collects the tensors of a layer; fills them all at the end, in parallel.
class Builder {
  public:
    explicit Builder(const SyntheticLayer& layer)
        : prefix_("model.layers." + std::to_string(layer.layer) + "."), seed_(mix_bits(layer.seed + 1)) {}

    using Fill = std::function<void(std::span<std::byte>, std::uint64_t seed)>;

    void add(const std::string& name, DType dtype, std::initializer_list<std::int64_t> shape, Fill fill) {
        result_.memory.push_back(OwnedTensor::allocate(dtype, shape));
        result_.tensors.push_back({prefix_ + name, result_.memory.back()});
        fills_.push_back(std::move(fill));
    }

    /// Elements of a distribution, drawn one by one: for small tensors and for palettes.
    template <class Draw>
    [[nodiscard]] Fill from(Draw draw) {
        return [palette = std::make_shared<Palette>(mix_bits(seed_ + ++palettes_), draw)](
                   std::span<std::byte> bytes, std::uint64_t seed) { palette->fill(bytes, seed); };
    }

    SyntheticTensors finish() {
        struct Piece {
            std::size_t tensor, offset, bytes;
        };
        constexpr std::size_t most = std::size_t{4} << 20;  // so that stacked tensors spread over threads
        std::vector<Piece> pieces;
        for (std::size_t i = 0; i < fills_.size(); ++i)
            for (std::size_t at = 0, size = result_.tensors[i].tensor.bytes(); at < size; at += most)
                pieces.push_back({i, at, std::min(most, size - at)});
        parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t index) {
            const auto [tensor, offset, bytes] = pieces[static_cast<std::size_t>(index)];
            auto* data = result_.tensors[tensor].tensor.as<std::byte>();
            fills_[tensor]({data + offset, bytes}, mix_bits(seed_ ^ mix_bits(tensor)) + offset);
        });
        return std::move(result_);
    }

  private:
    std::string prefix_;
    std::uint64_t seed_;
    std::uint64_t palettes_ = 0;
    std::vector<Fill> fills_;
    SyntheticTensors result_;
};

/// Standard deviation of weights that keep the size of activations.
double weight_deviation(std::int64_t cols) { return 1.0 / std::sqrt(static_cast<double>(cols)); }

/// bf16 scales of int4 groups: their sizes vary by a factor of two, as real ones do.
auto bf16_scale(double size) {
    return [size](RandomStream& random) {
        return scalar::float_to_bf16(static_cast<float>(size * (0.7 + 0.6 * random.uniform())));
    };
}

auto f32_scale(double size) {
    return [size](RandomStream& random) {
        return std::bit_cast<std::uint32_t>(static_cast<float>(size * (0.7 + 0.6 * random.uniform())));
    };
}

auto e8m0_scale(double size) {
    const auto nearest = static_cast<int>(std::lround(std::log2(size))) + 127;
    return [nearest](RandomStream& random) {
        const auto step = static_cast<int>(random.bits() % 8);  // one in eight up, one in eight down
        return static_cast<std::uint8_t>(nearest + (step == 0 ? 1 : 0) - (step == 1 ? 1 : 0));
    };
}

Builder::Fill constant_shape(std::int64_t rows, std::int64_t cols) {
    return [=](std::span<std::byte> bytes, std::uint64_t) {
        const std::array<std::int32_t, 2> shape = {static_cast<std::int32_t>(rows), static_cast<std::int32_t>(cols)};
        std::memcpy(bytes.data(), shape.data(), bytes.size());
    };
}

/// One projection of all experts in a layout with numbered experts.
struct Linear {
    const char* name;
    std::int64_t rows, cols;
    Builder::Fill values, scales;
};

Linear make_linear(Builder& builder, const SyntheticLayer& layer, const char* name, std::int64_t rows,
                   std::int64_t cols) {
    const double deviation = weight_deviation(cols);
    switch (layer.layout) {
        case CheckpointLayout::compressed_tensors:
            return {name, rows, cols, builder.from(draw_int4_pair),
                    builder.from(bf16_scale(deviation / kInt4Deviation))};
        case CheckpointLayout::deepseek_fp8:
            return {name, rows, cols, builder.from(draw_e4m3), builder.from(f32_scale(deviation / kFp8Deviation))};
        default:
            return {name,
                    rows,
                    cols,
                    builder.from([deviation](RandomStream& random) { return normal_bf16(random, deviation); }),
                    {}};
    }
}

void add_linear(Builder& builder, const SyntheticLayer& layer, std::int64_t expert, const Linear& linear) {
    const std::string name = "mlp.experts." + std::to_string(expert) + "." + linear.name + ".";
    const auto [unused, rows, cols, values, scales] = linear;
    switch (layer.layout) {
        case CheckpointLayout::compressed_tensors:
            builder.add(name + "weight_packed", DType::i32, {rows, cols / 8}, values);
            builder.add(name + "weight_scale", DType::bf16, {rows, cols / layer.group_size}, scales);
            builder.add(name + "weight_shape", DType::i32, {2}, constant_shape(rows, cols));
            return;
        case CheckpointLayout::deepseek_fp8:
            builder.add(name + "weight", DType::e4m3, {rows, cols}, values);
            builder.add(name + "weight_scale_inv", DType::f32,
                        {(rows + kFp8Block - 1) / kFp8Block, (cols + kFp8Block - 1) / kFp8Block}, scales);
            return;
        default: builder.add(name + "weight", DType::bf16, {rows, cols}, values);
    }
}

void add_numbered(Builder& builder, const SyntheticLayer& layer) {
    const std::array<Linear, 3> linears = {make_linear(builder, layer, "gate_proj", layer.intermediate, layer.hidden),
                                           make_linear(builder, layer, "up_proj", layer.intermediate, layer.hidden),
                                           make_linear(builder, layer, "down_proj", layer.hidden, layer.intermediate)};
    for (std::int64_t expert = 0; expert < layer.experts; ++expert)
        for (const Linear& linear : linears) add_linear(builder, layer, expert, linear);
}

void add_stacked(Builder& builder, const SyntheticLayer& layer, const std::string& name, std::int64_t rows,
                 std::int64_t cols) {
    const auto bias = [](RandomStream& random) { return normal_bf16(random, 0.1); };
    const double scale = weight_deviation(cols) / kMxfp4Deviation;
    builder.add(name + "_blocks", DType::u8, {layer.experts, rows, cols / 32, 16}, builder.from(draw_mxfp4_pair));
    builder.add(name + "_scales", DType::u8, {layer.experts, rows, cols / 32}, builder.from(e8m0_scale(scale)));
    builder.add(name + "_bias", DType::bf16, {layer.experts, rows}, builder.from(bias));
}

void add_router(Builder& builder, const SyntheticLayer& layer) {
    const bool gpt_oss = layer.layout == CheckpointLayout::gpt_oss;
    const double deviation = weight_deviation(layer.hidden);
    const auto bf16 = [&](double size) {
        return builder.from([size](RandomStream& random) { return normal_bf16(random, size); });
    };
    builder.add(gpt_oss ? "mlp.router.weight" : "mlp.gate.weight", DType::bf16, {layer.experts, layer.hidden},
                bf16(deviation));
    if (gpt_oss) builder.add("mlp.router.bias", DType::bf16, {layer.experts}, bf16(0.1));
    if (layer.layout == CheckpointLayout::compressed_tensors || layer.layout == CheckpointLayout::deepseek_fp8)
        builder.add("mlp.gate.e_score_correction_bias", DType::f32, {layer.experts}, builder.from(f32_scale(0.02)));
}

void check(const SyntheticLayer& layer) {
    if (layer.layer < 0) invalid("synthetic layer: `layer` is {}, expected at least 0", layer.layer);
    if (layer.experts < 1) invalid("synthetic layer: `experts` is {}, expected at least 1", layer.experts);
    WeightSpec spec = WeightSpec::bf16();
    if (layer.layout == CheckpointLayout::gpt_oss) spec = WeightSpec::mxfp4();
    if (layer.layout == CheckpointLayout::deepseek_fp8) spec = WeightSpec::fp8_block();
    if (layer.layout == CheckpointLayout::compressed_tensors) spec = WeightSpec::int4(layer.group_size);
    (void)PackedLayout::make(spec, layer.intermediate, layer.hidden, false);
    (void)PackedLayout::make(spec, layer.hidden, layer.intermediate, false);
}

}  // namespace

SyntheticTensors make_synthetic_layer(const SyntheticLayer& layer) {
    check(layer);
    Builder builder(layer);
    if (layer.layout == CheckpointLayout::gpt_oss) {
        add_stacked(builder, layer, "mlp.experts.gate_up_proj", 2 * layer.intermediate, layer.hidden);
        add_stacked(builder, layer, "mlp.experts.down_proj", layer.hidden, layer.intermediate);
    } else {
        add_numbered(builder, layer);
    }
    add_router(builder, layer);
    return builder.finish();
}

void write_synthetic_layer(const std::string& path, const SyntheticLayer& layer) {
    const SyntheticTensors made = make_synthetic_layer(layer);
    write_safetensors(path, made.tensors, {{"format", "pt"}});
}

}  // namespace tokamak::formats
